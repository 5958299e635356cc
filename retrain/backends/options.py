"""What `[backend.options]` may hold, one dataclass a backend, and what a backend needs. Imports no tensor library."""

from dataclasses import dataclass

from retrain.config.keys import key

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
"""Modules that the backend `local` imports, of the extra of that name."""


@dataclass(kw_only=True)
class LocalOptions:
    """Options of the backend `local`."""

    threads: int = key(0, "CPU threads of the tensor library; 0: its own choice", low=0)
