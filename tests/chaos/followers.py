"""The follower killed −9 between sending and writing that down, and at random moments, while its run is resumed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.kills import follow
from tests.chaos.runs import Child

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.tracking.folder import Line
    from tests.tracking.training import Training

STEPS = 24
BACK = 3  # steps that a resumed run measures again


def prepare(folder: Path) -> str:
    """Import MLflow once, and make a store; its address."""
    from tests.tracking.training import Training

    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    uri = f"sqlite:///{folder / 'followers.db'}"
    first = Training(folder / "first", uri).steps(1, 1).end()
    child = Child(lambda: follow(first.dir))
    assert child.wait() == 0, child.said()
    import mlflow
    import mlflow.entities
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    return uri


def killed_at_every_moment(folder: Path, uri: str) -> str:
    """The k-th attempt dies after sending k times and before writing down that it has; the run is then cut back."""
    training = _training(folder, "every", uri)
    step, kills = 0, 0
    while step < STEPS:
        step += 2
        training.steps(step - 1, step)
        child = Child(lambda: _die_after_send(training.dir))
        assert child.wait() == -signal.SIGKILL, child.said()
        kills += 1
        if step % 6 == 0:
            training.resume(step - BACK).steps(step - BACK + 1, step)  # the same steps, measured at another time
    return f"{kills} kills between sent and written down; {_all_there(training, uri)}"


def _die_after_send(run: Path) -> None:
    from retrain.tracking import mlflow

    send = mlflow.MlflowSink.send

    def send_and_die(self: mlflow.MlflowSink, lines: Sequence[Line]) -> None:
        assert lines[0]["step"] > self.sent.step, "what is noted as sent is not sent again"
        send(self, lines)
        if int(lines[-1]["step"]) == int(self.folder.lines()[-1]["step"]):
            os.kill(os.getpid(), signal.SIGKILL)

    mlflow.MlflowSink.send = send_and_die
    follow(run)


def killed_at_random(folder: Path, uri: str, kills: int, seed: int = 0) -> str:
    """Killed after 0 to 0.5 s of life, while the run writes lines, is cut back and writes them again."""
    rng, done = random.Random(seed), Counter()
    training, step = _training(folder, f"random-{seed}", uri), 0
    while done["kills"] < kills:
        child = Child(lambda: follow(training.dir))
        death = time.monotonic() + rng.uniform(0.0, 0.5)
        while time.monotonic() < death:
            step += 1
            training.steps(step, step)
            time.sleep(rng.uniform(0.0, 0.05))
        done["kills"] += child.kill() == -signal.SIGKILL
        if rng.random() < 0.5 and step > BACK:
            back = rng.randint(1, BACK)
            training.resume(step - back).steps(step - back + 1, step)
            done["cut back"] += 1
    return f"{done['kills']} kills, {done['cut back']} cut back, {step} steps; {_all_there(training, uri)}"


def _training(folder: Path, name: str, uri: str) -> Training:
    from tests.tracking.training import Training

    return Training(folder / name, uri)


def _all_there(training: Training, uri: str) -> str:
    """Let one follower finish; each key of each step must be stored once."""
    from retrain.store import read_metrics
    from tests.tracking.training import KEYS, Database

    training.end()
    child = Child(lambda: follow(training.dir))
    assert child.wait() == 0, child.said()
    (run,) = Database(uri).runs(training.dir)
    stored = Counter((key, step) for key, step, _, _ in Database(uri).points(run).elements())
    wanted = {(key, int(line["step"])) for line in read_metrics(training.dir) for key in KEYS}
    doubled, lost = stored.total() - len(stored), len(wanted - stored.keys())
    assert not doubled, f"{doubled} points doubled"
    assert not lost, f"{lost} points lost"
    return f"{len(wanted)} points, 0 lost, 0 doubled"
