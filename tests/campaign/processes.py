"""Orders for toy runs, and a look at which processes are left of them."""

import os
import sys
import time
import uuid
from pathlib import Path

from retrain.campaign.supervisor import Order

TOY = Path(__file__).with_name("toy_run.py")
ROOT = Path(__file__).parents[2]  # the code under test


def order(directory, *, mark="", fault="", seconds=0.0, command=(), **changes):
    """An order for a toy run that has a fault; every process of it carries `mark` in its environment."""
    directory.mkdir(parents=True, exist_ok=True)
    environment = {"TOY_MARK": mark, "TOY_FAULT": fault, "TOY_SECONDS": str(seconds), "PYTHONPATH": str(ROOT)}
    plain = {"places": (), "cwd": str(directory.parent), "timeout": 0.0, "stall_timeout": 0.0, "max_retries": 0}
    return Order(
        directory=str(directory),
        environment=environment | changes.pop("environment", {}),
        command=command or (sys.executable, str(TOY)),
        **(plain | changes),
    )


def python(code):
    """A command that runs some Python; the run directory is its first argument."""
    return (sys.executable, "-c", code)


def new_mark():
    return f"mark-{uuid.uuid4()}"


def marked(mark):
    """The processes that carry a mark; ended ones that nobody has collected have no environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(holds, seconds=20.0):
    """Wait until something holds; the moment's value of it."""
    deadline = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
