"""A run without a model: `python toy_run.py DIRECTORY` writes what training writes, and fails as TOY_FAULT says.

It starts a process of its own, which would sleep on for ever, as plugins do.
"""

import logging
import math
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from retrain import store
from retrain.config.schema import RunConfig
from retrain.errors import Interrupted, RunError
from retrain.signals import Signals
from retrain.watchdog import Watchdog

STEPS, FAULT_STEP = 5, 3


def train(directory: Path, fault: str) -> None:
    signals = Signals()
    record = store.RunRecord(name=directory.name, seed=1, max_steps=STEPS, started=time.time())
    done = store.steps_done(directory)
    seconds, stall_timeout = (float(os.environ.get(name, "0")) for name in ("TOY_SECONDS", "TOY_STALL"))
    with signals.listening():
        held = store.RunStore(directory, RunConfig(), record, store.RunLock.take(directory))
        subprocess.Popen(["sleep", "3600"])
        with held.writing_outcome(), Watchdog(directory, stall_timeout or 60.0, logging.warning) as watchdog:
            for step in range(done + 1, STEPS + 1):
                watchdog.phase("train", step - 1)
                time.sleep(seconds)
                signals.check()
                if step == FAULT_STEP:
                    fail(fault)
                held.append_metrics(step, {"reward/mean": step / 10} | (score(directory) if step == STEPS else {}))


def score(directory: Path) -> dict[str, float]:
    """What a search looks for: best where the learning rate is 1e-3. Only where TOY_SCORE asks for it."""
    if not os.environ.get("TOY_SCORE"):
        return {}
    training = tomllib.loads((directory / "config.toml").read_text())["training"]
    return {"eval/score": -abs(math.log10(training["lr"]) + 3) + training["seed"] / 100}


def fail(fault: str) -> None:
    if fault == "raise":
        raise ValueError("the cause")
    if fault == "refuse":
        raise RunError("the loss is not finite")
    if fault == "exit":
        sys.exit(7)
    if fault == "kill":
        time.sleep(0.6)  # the heartbeat tells where this is a moment later
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        while True:
            time.sleep(3600)
    if fault == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
        bytearray(1 << 30)


def main(directory: str) -> int:
    try:
        train(Path(directory), os.environ.get("TOY_FAULT", ""))
    except Interrupted as stopped:
        return stopped.exit_code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
