"""What each backend says of itself, and what its `[backend.options]` may hold. Imports no tensor library."""

from dataclasses import dataclass

from retrain.capabilities import Capabilities
from retrain.config.keys import key

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
"""Modules that the backend `local` imports, of the extra of that name."""


@dataclass(kw_only=True)
class LocalOptions:
    """Options of the backend `local`."""

    threads: int = key(0, "CPU threads of the tensor library; 0: its own choice", low=0)


LOCAL = Capabilities(
    modules=("trl", "accelerate", "pyarrow"),
    extra="local",
    devices=("cpu", "cuda"),
    trains=("lora", "full"),
    resume="to the last bit on a CPU, and on a GPU with deterministic kernels",
    options=LocalOptions,
    on_this_machine=True,
)
