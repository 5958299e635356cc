"""What `[backend.options]` may hold, one dataclass a backend. Imports no tensor library."""

from dataclasses import dataclass

from retrain.config.keys import key


@dataclass(kw_only=True)
class LocalOptions:
    """Options of the backend `local`."""

    threads: int = key(0, "CPU threads of the tensor library; 0: its own choice", low=0)
