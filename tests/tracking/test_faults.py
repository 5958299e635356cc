"""A tracker that is slow, full, or loses its answers: nothing is lost, nothing doubled, and training never notices."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from retrain import tracking
from retrain.tracking import connection, follower
from retrain.tracking.follower import follow, sync
from retrain.tracking.watermark import Sent
from tests.tracking.faulty_server import Gate, faulty_server
from tests.tracking.training import Database, Training, expected, line_of, spawn_follower, wait_until

if TYPE_CHECKING:
    from pathlib import Path

Train = Callable[..., Training]


@pytest.fixture
def server(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Gate]]:
    monkeypatch.setattr(
        connection, "ENVIRONMENT", {**connection.ENVIRONMENT, "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
    )
    monkeypatch.delenv(connection.TIMEOUT, raising=False)
    with faulty_server(tmp_path, store, monkeypatch) as found:
        yield found


def tried(training: Training) -> str:
    """One pass of `retrain sync`; what it said."""
    said: list[str] = []
    sync(training.dir, said.append)
    return said[-1]


def alive(database: Database, directory: Path) -> list[str]:
    """Ids of the runs that mirror `directory` and are not deleted."""
    return [
        run
        for run in database.runs(directory)
        if database.rows("select lifecycle_stage from runs where run_uuid = ?", run) == [("active",)]
    ]


def test_steps_whose_answer_was_lost_are_not_doubled_when_they_are_measured_again(
    train: Train, server: tuple[str, Gate], database: Database
):
    """The server stored them and could not say so; a resumed run then measures other values at another time."""
    url, gate = server
    training = train(uri=url).steps(1, 4)
    assert "sent steps 1 to 4" in tried(training)
    training.steps(5, 9)
    gate.deaf = {"reward/mean": 2}  # the call and its retry
    assert "mlflow: " in tried(training)
    assert Sent.load(training.dir, "mlflow").step == 4
    training.resume(3).steps(4, 12).end()
    assert "sent steps 5 to 12" in tried(training)
    (run,) = database.runs(training.dir)
    sent = [line_of(step) for step in range(1, 10)] + [line_of(step, 1) for step in range(10, 13)]
    assert database.points(run) == expected(sent)


def test_a_server_slower_than_the_timeout_gets_everything_once_in_one_run(
    train: Train, server: tuple[str, Gate], database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(follower, "POLL_SECONDS", 0.1)
    url, gate = server
    gate.delay = {"runs/create": 1.3, "runs/log-batch": 1.3}
    training = train(uri=url).steps(1, 5)
    (training.dir / "tracking").mkdir()
    figures = follower.Figures(follower.RunFolder(training.dir))
    (mirror,) = follower.mirrors(training.dir, figures, timeout=1)
    thread = follower.MirrorThread(mirror, patience=60)
    thread.start()
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 5)
    assert os.environ[connection.TIMEOUT] == "2"
    gate.delay = {}
    training.steps(6, 40).end()
    wait_until(lambda: thread.settled != "")
    thread.stopped.set()
    thread.join(5)
    assert gate.calls.count("/api/2.0/mlflow/runs/create") > 1, "it was not too slow"
    (run,) = alive(database, training.dir)
    assert database.points(run) == expected([line_of(step) for step in range(1, 41)])
    monkeypatch.delenv(connection.TIMEOUT)


def test_a_lagging_tracker_gets_many_steps_in_a_call(train: Train, server: tuple[str, Gate]):
    url, gate = server
    tried(train(uri=url).steps(1, 60).end())
    assert gate.calls.count("/api/2.0/mlflow/runs/log-batch") < 10


@pytest.mark.parametrize("status", ["500 INTERNAL SERVER ERROR", "507 INSUFFICIENT STORAGE"])
def test_a_full_server_is_one_warning_and_gets_everything_when_it_has_space(
    train: Train, server: tuple[str, Gate], database: Database, status: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "retrain.tracking")
    url, gate = server
    training = train(uri=url).steps(1, 3)
    thread = threading.Thread(target=follow, args=(training.dir,))
    thread.start()
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 3)
    gate.refuse = {"log-batch": status}
    training.steps(4, 8)
    wait_until(lambda: Sent.load(training.dir, "mlflow").problem != "")
    gate.refuse = {}
    training.steps(9, 12).end()
    thread.join(60)
    assert not thread.is_alive()
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected([line_of(step) for step in range(1, 13)])
    said = [message for message in caplog.messages if message.startswith("mlflow:")]
    assert ["trying again" in line for line in said] == [True, False], said
    assert "caught up" in said[-1]


def test_a_store_on_a_full_disk_gets_everything_when_there_is_space_again(train: Train, database: Database, store: str):
    assert sync(train("first").steps(1, 1).end().dir, print)  # the store exists
    training = train("second").steps(1, 2)
    process = spawn_follower(training.dir)
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 2)
    full = database.path.stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    training.steps(3, 400)
    wait_until(lambda: Sent.load(training.dir, "mlflow").problem != "")
    assert database.path.stat().st_size <= full
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    training.end()
    assert process.wait(60) == 0
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected([line_of(step) for step in range(1, 401)])


def test_a_follower_whose_own_notes_cannot_be_written_goes_on_when_they_can(
    train: Train, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The run directory's disk is full: nothing may be sent that is not written down first."""
    save, full = Sent.save, threading.Event()

    def save_if_space(sent: Sent) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        save(sent)

    monkeypatch.setattr(Sent, "save", save_if_space)
    training = train().steps(1, 2)
    thread = threading.Thread(target=follow, args=(training.dir,))
    thread.start()
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 2)
    full.set()
    training.steps(3, 5)
    thread.join(1.5)
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected([line_of(step) for step in (1, 2)])
    full.clear()
    training.end()
    thread.join(30)
    assert not thread.is_alive()
    assert database.points(run) == expected([line_of(step) for step in range(1, 6)])
    assert tracking.pending(training.dir) == []
