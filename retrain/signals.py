"""What the outside asks of a run: to stop, or to save.

    SIGTERM, SIGUSR2, Ctrl-C   save the last finished step and end, exit code 130
    SIGUSR1                    save the next finished step and go on
    Ctrl-C again               end at once

A handler may run between any two lines of Python. So it interrupts only where the code says that nothing can be half
done (`allowed`); elsewhere it leaves a note, and the next such place acts on it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

from retrain.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # USR2 is what submitit and SLURM's --signal send beforehand
SAVE = signal.SIGUSR1


class Signals:
    """The requests of one run."""

    def __init__(self) -> None:
        self.reason = ""  # why it must stop; empty: it need not
        self._save = False
        self._allowed = 0
        self._interrupts = 0

    def wants_save(self) -> bool:
        """Tell whether a checkpoint was asked for since the last call."""
        wanted, self._save = self._save, False
        return wanted

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals of this process inside the block. Only the main thread can; others handle none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (*STOP, SAVE)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a request to stop interrupt the block anywhere, and at its end if code inside has caught that.

        What code inside makes of it, such as a model that cannot be loaded, is no failure of the run.

        Raises:
            Interrupted: the run is asked to stop.
        """
        self.check()
        self._allowed += 1
        try:
            yield
        except Exception as error:
            if self.reason and not isinstance(error, Interrupted):
                raise Interrupted(self.reason) from error
            raise
        finally:
            self._allowed -= 1
        self.check()

    def check(self) -> None:
        """Stop here if it was asked for.

        Raises:
            Interrupted: it was.
        """
        if self.reason:
            raise Interrupted(self.reason)

    def _handle(self, number: int, _: Any) -> None:
        if number == SAVE:
            self._save = True
            return
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if not self.reason:
            self.reason = f"stopped by {signal.Signals(number).name}"
            if self._allowed:
                raise Interrupted(self.reason)
