"""Start a run's follower, and wait for it a moment at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from retrain.tracking.watermark import is_claimed, pending

if TYPE_CHECKING:
    from pathlib import Path

STARTING_SECONDS = 5.0  # a follower that holds no lock after this long has not started, or has ended


def start_follower(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the process that mirrors `run_dir` into its trackers.

    It has a process session of its own, so that Ctrl-C does not reach it, and ends by itself. Starting one too many
    is harmless: a run directory has one follower, the others leave at once.
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

    Call it after the run's end is in `run.json`. False means that `retrain sync RUN` has something left to do.
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
