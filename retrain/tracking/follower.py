"""The follower: reads a run directory, sends it to each tracker, ends when the run is over and everything is sent.

    new lines of metrics.jsonl ── one call a step ──▶ tracker ── success ──▶ watermark in RUN/tracking/<sink>.json

What is about to be sent is written there first, so that a follower killed at any moment loses and doubles nothing.
A tracker that lags gets several steps in a call.

Each tracker has a thread of its own: one that fails, or hangs, does not stop another. `retrain sync` is the same
pass, once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from retrain.errors import RetrainError
from retrain.tracking.connection import TIMEOUT_SECONDS
from retrain.tracking.figures import Figures
from retrain.tracking.folder import CampaignFolder, Ending, Line, RunFolder
from retrain.tracking.mlflow import MlflowSink
from retrain.tracking.uri import masked
from retrain.tracking.wandb import WandbSink
from retrain.tracking.watermark import Sent, claim, pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

POLL_SECONDS = 0.5
MAX_DELAY_SECONDS = 60.0
PATIENCE_SECONDS = 120.0  # with a tracker that does not answer, once the run is over
CLAIM_SECONDS = 2.0  # an ending follower gives its lock back within this
SYNC_TIMEOUT_SECONDS = 60  # somebody waits for the answer, however slow
LINES_A_CALL = 30  # of some 30 metrics each: what MLflow takes in one call

log = logging.getLogger("retrain.tracking")


class Sink(Protocol):
    """One tracker. Every method may raise anything, and is then called again."""

    name: str

    def open(self, *, running: bool) -> None: ...

    def send(self, lines: Sequence[Line]) -> None: ...

    def describe(self) -> None: ...

    def finish(self, ending: Ending) -> None: ...


class Mirror:
    """Brings one tracker up to date with a run's directory or a campaign's, as often as asked."""

    def __init__(self, folder: RunFolder | CampaignFolder, sink: Sink, sent: Sent) -> None:
        self.folder, self.sink, self.sent = folder, sink, sent
        self._open = False

    def catch_up(self) -> Ending | None:
        """Send what is missing; return how the run ended once the tracker knows, None while the run goes on."""
        ending = self.folder.ending()  # looked at before the lines: a run that is over writes no more of them
        missing = self.sent.sending or self.folder.lines(after=self.sent.step)
        if ending is not None and self.sent.finished == ending.key and not missing:
            return ending
        if not self._open:
            self.sink.open(running=ending is None)
            self._open, self.sent.finished = True, ""
            self.sent.save()
        if self.sent.sending:
            self._deliver(self.sent.sending)
        while lines := self.folder.lines(after=self.sent.step)[:LINES_A_CALL]:
            self.sent.sending = lines
            self.sent.save()
            self._deliver(lines)
        if ending is None:
            self.sink.describe()
        if ending is not None:
            self.sink.finish(ending)
            self.sent.finished = ending.key
            self._open = False  # a resumed run opens it again
        if ending is not None or self.sent.problem:
            self.sent.problem = ""
            self.sent.save()
        return ending

    def _deliver(self, lines: Sequence[Line]) -> None:
        self.sink.send(lines)
        self.sent.step, self.sent.sending = int(lines[-1]["step"]), []
        self.sent.save()

    def failed(self, error: Exception) -> str:
        """Note a failure in the watermark file, where the disk takes it, and return it in words."""
        self._open = False
        self.sent.problem = f"{type(error).__name__}: {masked(str(error)).splitlines()[0] if str(error) else ''}"
        with contextlib.suppress(OSError):  # the disk may be what has failed
            self.sent.save()
        return self.sent.problem


class MirrorThread(threading.Thread):
    """A mirror that keeps up with the run until it is stopped, with back-off while its tracker fails."""

    def __init__(self, mirror: Mirror, patience: float) -> None:
        super().__init__(name=mirror.sink.name, daemon=True)
        self.mirror, self.patience = mirror, patience
        self.stopped = threading.Event()
        self.settled = ""  # the ending after which nothing is left to do here: all is sent, or it was given up
        self._delay = 0.0  # seconds to the next attempt; 0 while the tracker works
        self._failing_since_end: float | None = None

    def run(self) -> None:
        while not self.stopped.is_set() and self.mirror.folder.exists():
            before = self.mirror.sent.step
            try:
                ending = self.mirror.catch_up()
            except Exception as error:  # noqa: BLE001  whatever a tracker raises, training and the other sinks go on
                self._back_off(error, moved=self.mirror.sent.step > before)
                continue
            if self._delay:
                log.info("%s: caught up at step %d", self.name, self.mirror.sent.step)
            self._delay, self._failing_since_end = 0.0, None
            self.settled = ending.key if ending else ""
            self.stopped.wait(POLL_SECONDS)

    def _back_off(self, error: Exception, *, moved: bool) -> None:
        """Say the first failure, wait 1, 2, 4 … 60 s, and settle for it when the run has been over for too long."""
        if not self.mirror.folder.exists():
            return
        problem, ending = self.mirror.failed(error), self._ending()
        if self._delay == 0.0:
            log.warning("%s: %s; trying again until it works", self.name, problem)
        self._delay = 1.0 if self._delay == 0.0 or moved else min(2 * self._delay, MAX_DELAY_SECONDS)
        if ending is None:
            self._failing_since_end = None
            self.stopped.wait(self._delay)
            return
        self._failing_since_end = self._failing_since_end or time.monotonic()
        if time.monotonic() - self._failing_since_end > self.patience and self.settled != ending.key:
            missing, directory = len(self.mirror.folder.lines(after=self.mirror.sent.step)), self.mirror.folder.dir
            log.warning("%s: gave up, %d steps are not sent; retrain sync %s", self.name, missing, directory)
            self.settled = ending.key
        self.stopped.wait(min(self._delay, max(self.patience, POLL_SECONDS)))

    def _ending(self) -> Ending | None:
        """How the run ended; None where that cannot be read now."""
        try:
            return self.mirror.folder.ending()
        except (RetrainError, OSError):
            return None


def follow(run_dir: Path, patience: float = PATIENCE_SECONDS) -> None:
    """Mirror a run until it is over and everything is sent; leave at once when another process does it already.

    A run that is resumed meanwhile is followed on: its own new follower has found this one at work, and left.

    Raises:
        ConfigError: `run_dir` holds no run.
    """
    folder = RunFolder(run_dir)
    folder.record()
    figures = Figures(folder)
    with claim(run_dir, CLAIM_SECONDS) as held:
        threads = [MirrorThread(mirror, patience) for mirror in mirrors(run_dir, figures)] if held else []
        for thread in threads:
            thread.start()
        while held and folder.exists() and all(thread.is_alive() for thread in threads):
            ending = folder.ending()
            if ending is not None and all(thread.settled == ending.key for thread in threads):
                figures.draw()
                if folder.ending() == ending:
                    break
            figures.draw_if_due()
            time.sleep(POLL_SECONDS / 2)
        for thread in threads:
            thread.stopped.set()


def mirrors(run_dir: Path, figures: Figures, timeout: int = TIMEOUT_SECONDS) -> list[Mirror]:
    """One mirror for each tracker of the run, each with its own view of the directory.

    timeout: seconds that a call to a server may take, at first
    """
    made = []
    for name in RunFolder(run_dir).sinks():
        folder, sent = RunFolder(run_dir), Sent.load(run_dir, name)
        sink = MlflowSink(folder, sent, figures, timeout) if name == "mlflow" else WandbSink(folder, sent)
        made.append(Mirror(folder, sink, sent))
    return made


def sync(run_dir: Path, report: Callable[[str], None]) -> bool:
    """Send what the trackers miss, once; True when they have everything. `report` gets one line for each tracker.

    Raises:
        ConfigError: `run_dir` holds no run.
    """
    missing = {behind.sink: behind for behind in pending(run_dir)}
    with claim(run_dir, CLAIM_SECONDS) as held:
        if not held:
            report(f"a follower is sending {run_dir} right now; nothing to do here")
            return not missing
        lines = RunFolder(run_dir).lines()
        first_step = int(lines[0]["step"]) if lines else 0
        for mirror in mirrors(run_dir, Figures(RunFolder(run_dir)), SYNC_TIMEOUT_SECONDS):
            name, before = mirror.sink.name, mirror.sent.step
            if name not in missing:
                report(f"{name}: has everything, up to step {before}")
                continue
            try:
                mirror.catch_up()
                first = max(before + 1, first_step)
                steps = f"sent steps {first} to {mirror.sent.step}"
                report(f"{name}: {steps}" if mirror.sent.step > before else f"{name}: up to date")
            except Exception as error:  # noqa: BLE001  one tracker's failure is reported, the next one still gets its turn
                report(f"{name}: {mirror.failed(error)}")
    return not pending(run_dir)
