"""Runs that go on although the process that conducted their campaign is gone: jobs of a cluster outlive it.

Such a run is not started a second time. It is waited for, and only what its own supervisor did not bring to the end is
started again. Jobs that had not begun do nothing any more (`launchers.supersede`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from retrain import runs
from retrain.campaign.launchers import supersede
from retrain.campaign.supervisor import Exit
from retrain.errors import ConfigError

if TYPE_CHECKING:
    import threading
    from pathlib import Path

LOOK_SECONDS = 1.0  # between two looks at a run
LOST_SECONDS = 20.0  # without a process: its supervisor, which may be trying again, is gone too


def trainer_of(directory: Path) -> str:
    """Return who trains a run now, as ``process 12 on node3``; empty: nobody, as far as can be known from here."""
    try:
        record = runs.sound_record(directory)
    except ConfigError:
        return ""
    return f"process {record.pid} on {record.host}" if runs.goes_on(directory, record) else ""


def wait(directory: Path, root: Path, stop: threading.Event) -> Exit | None:
    """Wait for the end of a run that somebody else supervises, and return it; None: it has to be gone on with.

    root: the campaign's directory; when `stop` is set its earlier jobs are asked to stop, which save their last step
    """
    since, seen, is_asked = time.time(), time.monotonic(), False
    while True:
        if stop.is_set() and not is_asked:
            supersede(root, stop=True)
            is_asked = True
        if trainer_of(directory):
            seen = time.monotonic()
        elif (found := _end(directory, since)) is not None:
            return found if found.state == "done" or stop.is_set() else None
        elif time.monotonic() - seen > LOST_SECONDS:
            return None
        time.sleep(LOOK_SECONDS)


def _end(directory: Path, since: float) -> Exit | None:
    """Return how its supervisor saw a run end, or that the run is done; None: neither has been written yet."""
    found = Exit.read(directory)
    if found is not None and found.ended >= since:
        return found
    try:
        record = runs.sound_record(directory)
    except ConfigError:
        return None
    if record.state != "done":
        return None
    ended = record.ended or time.time()
    return Exit(state="done", exit_reason="", code=0, signal="", attempts=1, started=record.started, ended=ended)
