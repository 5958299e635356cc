"""What a run and its libraries log: in RUN/log.txt, and our own warnings to whoever watches."""

from __future__ import annotations

import logging
import logging.handlers
from typing import TYPE_CHECKING, Self

from retrain.events import Emit, Warned

if TYPE_CHECKING:
    from pathlib import Path


class _Teller(logging.Handler):
    """Passes our own warnings on to whoever watches the run."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self.emit_event = emit

    def emit(self, record: logging.LogRecord) -> None:
        self.emit_event(Warned(message=record.getMessage()))


class Log:
    """What this process and its libraries log: kept until there is a run directory, then in its log.txt.

    Our own warnings also reach whoever watches the run.
    """

    def __init__(self, emit: Emit) -> None:
        self._early = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._teller = _Teller(emit)
        self._file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Send everything so far, and everything from here on, to a file."""
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._early.setTarget(self._file)
        self._early.flush()
        logging.getLogger().removeHandler(self._early)
        logging.getLogger().addHandler(self._file)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._early)
        logging.getLogger("retrain").addHandler(self._teller)
        logging.getLogger("retrain").setLevel(logging.INFO)
        logging.captureWarnings(capture=True)
        return self

    def __exit__(self, *_: object) -> None:
        logging.captureWarnings(capture=False)
        logging.getLogger("retrain").removeHandler(self._teller)
        for handler in (self._early, self._file):
            if handler is not None:
                logging.getLogger().removeHandler(handler)
                handler.close()
