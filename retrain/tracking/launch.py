"""Start the follower of a run or a campaign, keep it at work, and wait for it a moment at the end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from retrain.tracking.watermark import is_claimed, pending

if TYPE_CHECKING:
    from pathlib import Path

STARTING_SECONDS = 5.0  # a follower that holds no lock after this long has not started, or has ended
CHECK_SECONDS = 3.0  # between two looks at whether the follower lives, and before the first new start
MAX_PAUSE_SECONDS = 300.0  # before another start of one that keeps dying
STEADY_SECONDS = 60.0  # one that has lived so long is started again without delay

log = logging.getLogger(__name__)


class Follower:
    """The process that mirrors a run, or a campaign, as the one who runs that sees it: kept at work, never waited for.

    Nothing here raises: a follower that cannot be started is one warning; `retrain sync` sends everything later.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._due = 0.0  # monotonic seconds: the last start, the next look
        self._pause = CHECK_SECONDS
        self._complained = False

    def ensure(self) -> None:
        """Start it where none is at work: first, and again after it has died. Call it after each step: it is cheap."""
        now = time.monotonic()
        if now < self._due:
            return
        if not self._is_at_work():
            self.start()
            return
        self._due = now + CHECK_SECONDS
        if now - self._started > STEADY_SECONDS:
            self._pause = CHECK_SECONDS

    def start(self) -> None:
        """Start it now unless one is at work, however short ago the last one died: for the end of a run."""
        if self._is_at_work():
            return
        from retrain import tracking  # the package's function, which may be replaced

        try:
            self._process = tracking.start_follower(self.directory)
        except (OSError, subprocess.SubprocessError) as error:
            if not self._complained:
                log.warning("the tracker gets nothing for now: its follower cannot be started: %s", error)
            self._complained = True
        self._started = time.monotonic()
        self._due = self._started + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)

    def _is_at_work(self) -> bool:
        """Whether our process lives, or another one mirrors this run: that of the training that we go on from."""
        if self._process is not None:
            code = self._process.poll()  # takes a dead one off the process table
            if code is None:
                return True
            log.info("the follower ended with code %d", code)
            self._process = None
        try:
            return is_claimed(self.directory)
        except OSError:
            return False


def start_follower(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the process that mirrors a run, or a campaign with all its runs, into its trackers.

    It has a process session of its own, so that Ctrl-C does not reach it, and ends by itself. Starting one too many
    is harmless: a directory has one follower, the others leave at once.
    """
    folder = run_dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "follower.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "retrain.tracking", str(run_dir.resolve())],  # -P: no module of the cwd's
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def wait_for_follower(run_dir: Path, seconds: float) -> bool:
    """Wait until the follower has ended or `seconds` have passed; True when everything is sent.

    Call it after the end is in `run.json`, or in `manifest.json`. False means that `retrain sync` has something left
    to do.
    """
    begin = time.monotonic()
    seen = False
    while time.monotonic() - begin < seconds:
        working = is_claimed(run_dir)
        seen = seen or working
        if not working and (seen or not pending(run_dir) or time.monotonic() - begin > STARTING_SECONDS):
            break
        time.sleep(0.1)
    return not pending(run_dir)
