"""The run directory's figures, drawn by the follower when there is something new and time for it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from retrain.tracking.folder import RunFolder

PAUSE_SECONDS = 30.0  # between two drawings of a run that is going on
MAX_SHARE = 0.02  # of one core's time that goes into figures nobody may be looking at

log = logging.getLogger("retrain.tracking")

_one_at_a_time = threading.Lock()  # matplotlib shares fonts and caches between figures, without locks of its own


class Figures:
    """`RUN/plots/*.png`. Figures that cannot be drawn are said once; they stop nothing else."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._lock = threading.Lock()
        self._drawn: float = -1.0  # time of the last line drawn
        self._due = time.monotonic() + PAUSE_SECONDS
        self._complained = False

    def draw_if_due(self) -> None:
        """Draw at most every `PAUSE_SECONDS`, and less often where drawing is slow."""
        if time.monotonic() >= self._due:
            begin = time.process_time()
            self.draw()
            self._due = time.monotonic() + max(PAUSE_SECONDS, (time.process_time() - begin) / MAX_SHARE)

    def draw(self) -> list[Path]:
        """Draw what the run has measured so far; return the files."""
        with self._lock:
            lines = self.folder.lines()
            if lines and lines[-1]["time"] != self._drawn:
                try:
                    with _one_at_a_time:
                        from retrain import plots

                        folder = self.folder.dir / "plots"
                        self.paths = plots.draw(lines, folder, title=self.folder.record().name)
                    self._drawn = lines[-1]["time"]
                except Exception as error:  # noqa: BLE001  a missing font or a full disk must not stop tracking
                    if not self._complained:
                        log.warning("figures: %s: %s", type(error).__name__, error)
                    self._complained = True
            return self.paths


class Gallery:
    """The figures of several runs that go on at once, under one run's share of a core."""

    def __init__(self) -> None:
        self._hung: list[Figures] = []  # the ones drawn longest ago first
        self._due = time.monotonic() + PAUSE_SECONDS

    def figures(self, folder: RunFolder) -> Figures:
        self._hung.append(made := Figures(folder))
        return made

    def forget(self, figures: Figures) -> None:
        self._hung.remove(figures)

    def draw_if_due(self) -> None:
        """Draw those of one run, by turns."""
        if not self._hung or time.monotonic() < self._due:
            return
        begin = time.thread_time()
        self._hung.append(first := self._hung.pop(0))
        first.draw()
        pause = max(PAUSE_SECONDS / len(self._hung), (time.thread_time() - begin) / MAX_SHARE)
        self._due = time.monotonic() + pause
