"""Orders for runs of the toy backend, and a look at which processes are left of them."""

import os
import sys
import time
import uuid
from pathlib import Path

from retrain.campaign.supervisor import Order

HERE = Path(__file__).parent  # the place of the plugin
ROOT = HERE.parents[1]  # the code under test
STEPS = 5
CONFIG = """
[backend]
backend = "toy_backend:Toy"
options = {{ fault = "{fault}", seconds = {seconds} }}
[training]
max_steps = {steps}
save_every = 1
[health]
stall_timeout = {stall}
[logging]
tracking_uri = "none"
"""


def order(directory, *, mark="", fault="", seconds=0.0, stall_timeout=0.0, **changes):
    """An order for a run of the toy backend; every process of it carries `mark` in its environment."""
    directory.mkdir(parents=True, exist_ok=True)
    config = CONFIG.format(fault=fault, seconds=float(seconds), steps=STEPS, stall=stall_timeout or 60.0)
    (directory / "config.toml").write_text(config)
    environment = {"TOY_MARK": mark, "PYTHONPATH": str(ROOT)}
    plain = {"places": (str(HERE),), "cwd": str(directory.parent), "timeout": 0.0, "max_retries": 0}
    return Order(
        directory=str(directory),
        stall_timeout=stall_timeout,
        environment=environment | changes.pop("environment", {}),
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
