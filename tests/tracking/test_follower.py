"""The follower's promises: every point once, whatever is killed, cut back, or started twice."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from retrain import tracking
from retrain.errors import ConfigError
from retrain.tracking.figures import Figures
from retrain.tracking.folder import Ending, Line, RunFolder
from retrain.tracking.follower import Mirror, MirrorThread, follow, mirrors, sync
from retrain.tracking.watermark import Sent, claim
from tests.tracking.training import Database, Training, expected, line_of, spawn_follower, wait_until

if TYPE_CHECKING:
    from pathlib import Path

Train = Callable[..., Training]


def lines(first: int, last: int, attempt: int = 0) -> list[Line]:
    return [line_of(step, attempt) for step in range(first, last + 1)]


def synced(training: Training) -> list[str]:
    said: list[str] = []
    assert sync(training.dir, said.append), said
    return said


def test_every_point_is_sent_once_with_the_step_and_time_of_its_line(train: Train, database: Database):
    training = train().steps(1, 12).end()
    assert synced(training) == ["mlflow: sent steps 1 to 12"]
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 12))
    assert database.status(run) == "FINISHED"
    assert tracking.pending(training.dir) == []


def test_sending_again_sends_nothing(train: Train, database: Database):
    training = train().steps(1, 5).end()
    synced(training)
    before = (training.dir / "tracking" / "mlflow.json").read_bytes()
    assert synced(training) == ["mlflow: has everything, up to step 5"]
    assert (training.dir / "tracking" / "mlflow.json").read_bytes() == before
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 5))


def test_steps_that_a_resumed_run_measures_again_are_not_sent_again(train: Train, database: Database):
    training = train().steps(1, 8).end("interrupted")
    synced(training)
    (run,) = database.runs(training.dir)
    assert database.status(run) == "KILLED"
    training.resume(4).steps(5, 7)
    synced(training)
    assert database.status(run) == "RUNNING"
    training.steps(8, 11).end()
    synced(training)
    assert database.runs(training.dir) == [run]
    assert database.points(run) == expected(lines(1, 8) + lines(9, 11, attempt=1))
    assert database.status(run) == "FINISHED"


def test_a_step_that_arrived_but_was_not_written_down_is_not_doubled(train: Train, database: Database):
    """The follower dies after the server's answer and before its watermark; the step is then measured anew."""
    training = train().steps(1, 6).end("interrupted")
    synced(training)
    sent = Sent.load(training.dir, "mlflow")
    sent.step, sent.sending = 3, lines(4, 6)
    sent.save()
    synced(training.resume(2).steps(3, 7).end())
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 6) + lines(7, 7, attempt=1))


def test_a_run_that_was_created_but_not_written_down_is_not_created_twice(train: Train, database: Database):
    training = train().steps(1, 3)
    synced(training)
    sent = Sent.load(training.dir, "mlflow")
    sent.run_id, sent.step = "", -1
    sent.save()
    synced(training.steps(4, 4).end())
    (run,) = database.runs(training.dir)
    assert set(database.points(run).values()) == {1}


def test_a_torn_last_line_waits_until_it_is_whole(train: Train, database: Database):
    training = train().steps(1, 2)
    whole = (training.dir / "metrics.jsonl").read_text()
    training.steps(3, 3)
    torn = (training.dir / "metrics.jsonl").read_text()
    (training.dir / "metrics.jsonl").write_text(torn[: len(whole) + 20])
    synced(training)
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 2))
    (training.dir / "metrics.jsonl").write_text(torn)
    synced(training.end())
    assert database.points(run) == expected(lines(1, 3))


def test_the_evaluation_before_the_first_step_is_sent_as_step_0(train: Train, database: Database):
    training = train()
    with (training.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 0, "time": 1763870000.5, "eval/score": 0.125}\n')
    assert tracking.pending(training.dir)[0].steps == 0
    assert synced(training) == ["mlflow: sent steps 0 to 0"]
    assert synced(training.steps(1, 3).end()) == ["mlflow: sent steps 1 to 3"]
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 3)) + Counter({("eval/score", 0, 1763870000500, 0.125): 1})


def test_values_that_are_not_finite_are_never_sent(train: Train, database: Database):
    training = train().steps(1, 1)
    with (training.dir / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 2, "time": 1763870002.125, "reward/mean": NaN, "policy/loss": Infinity, "entropy/mean": 0.5}\n'
        )
    synced(training.end())
    (run,) = database.runs(training.dir)
    assert [point[:2] for point in database.points(run) if point[1] == 2] == [("entropy/mean", 2)]


def test_a_follower_ends_when_the_run_is_over_and_everything_is_sent(train: Train, database: Database):
    training = train().steps(1, 2)
    follower = threading.Thread(target=follow, args=(training.dir,))
    follower.start()
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 2)
    training.steps(3, 6)
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 6)
    assert follower.is_alive()
    training.steps(7, 9).end("failed", exit_reason="step 9: loss is nan")
    assert tracking.wait_for_follower(training.dir, 30)
    follower.join(5)
    assert not follower.is_alive()
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 9))
    assert database.status(run) == "FAILED"
    assert "step 9: loss is nan" in database.tags(run)["mlflow.note.content"]


def test_a_follower_goes_on_when_the_run_is_resumed_while_it_finishes(
    train: Train, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The resumed run's own follower finds this one at work and leaves, so this one must look again before it ends."""
    finishing, resumed = threading.Event(), threading.Event()
    draw = Figures.draw

    def slow_draw(figures: Figures) -> list[Path]:
        finishing.set()
        resumed.wait(30)
        return draw(figures)

    monkeypatch.setattr(Figures, "draw", slow_draw)
    training = train().steps(1, 3).end("interrupted")
    follower = threading.Thread(target=follow, args=(training.dir,))
    follower.start()
    assert finishing.wait(30)
    training.resume(3).steps(4, 6)
    resumed.set()
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 6)
    training.end()
    follower.join(30)
    (run,) = database.runs(training.dir)
    assert database.status(run) == "FINISHED"
    assert database.points(run) == expected(lines(1, 3) + lines(4, 6, attempt=1))


def test_a_follower_looks_once_more_before_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything was sent, the last figures are being drawn, and the run is resumed: it is followed on."""
    drawing, resumed = threading.Event(), threading.Event()
    draw = Figures.draw

    def slow_draw(figures: Figures) -> list[Path]:
        drawing.set()
        resumed.wait(30)
        return draw(figures)

    monkeypatch.setattr(Figures, "draw", slow_draw)
    training = Training(tmp_path / "run", "none").steps(1, 3).end("interrupted")
    follower = threading.Thread(target=follow, args=(training.dir,))
    follower.start()
    assert drawing.wait(30)
    training.resume(3).steps(4, 6)
    resumed.set()
    follower.join(3)
    assert follower.is_alive()
    training.end()
    follower.join(30)
    assert not follower.is_alive()


def test_a_second_follower_of_a_run_leaves_quietly(train: Train):
    training = train().steps(1, 1)
    with claim(training.dir, 0) as held:
        assert held
        second = spawn_follower(training.dir)
        assert second.wait(30) == 0
    assert (training.dir / "tracking" / "follower.log").read_text() == ""
    assert not (training.dir / "tracking" / "mlflow.json").exists()


def test_a_run_whose_process_is_gone_is_over(train: Train, database: Database):
    training = train().steps(1, 4)
    assert RunFolder(training.dir).ending() is None
    training.die()
    ending = RunFolder(training.dir).ending()
    assert ending is not None
    assert (ending.state, ending.time) == ("killed", line_of(4)["time"])
    synced(training)
    (run,) = database.runs(training.dir)
    assert database.status(run) == "KILLED"
    assert "retrain resume" in database.tags(run)["mlflow.note.content"]


def test_a_process_with_the_same_number_is_not_the_run(train: Train):
    training = train().steps(1, 1)
    training.update(process_start=training.record.process_start - 1)
    assert RunFolder(training.dir).ending() is not None


def test_a_run_on_another_machine_counts_as_alive(train: Train):
    training = train().steps(1, 1).die().update(host="elsewhere")
    assert RunFolder(training.dir).ending() is None


def test_a_follower_killed_in_the_middle_is_continued_without_loss_or_double(train: Train, database: Database):
    training = train().steps(1, 300)
    first = spawn_follower(training.dir)
    wait_until(lambda: Sent.load(training.dir, "mlflow").step >= 20)
    first.kill()
    first.wait()
    reached = Sent.load(training.dir, "mlflow").step
    assert 20 <= reached < 300, "it was not killed in the middle"
    training.end()
    assert tracking.pending(training.dir)[0].steps == 300
    second = tracking.start_follower(training.dir)
    assert os.getsid(second.pid) == second.pid, "Ctrl-C must not reach it"
    assert tracking.wait_for_follower(training.dir, 60)
    assert second.wait(10) == 0
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 300))


def test_several_followers_may_start_at_once_on_a_fresh_store(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}"
    trainings = [Training(tmp_path / f"run{number}", uri).steps(1, 3).end() for number in range(3)]
    for follower in [spawn_follower(training.dir) for training in trainings]:
        assert follower.wait(120) == 0
    for training in trainings:
        assert (training.dir / "tracking" / "follower.log").read_text() == ""
        (run,) = Database(uri).runs(training.dir)
        assert Database(uri).points(run) == expected(lines(1, 3))


def test_a_run_without_a_tracker_still_gets_its_figures(tmp_path: Path):
    training = Training(tmp_path / "run", "none").steps(1, 5).end()
    follow(training.dir)
    assert sorted(file.name for file in (training.dir / "plots").iterdir()) == [
        "entropy.png",
        "length.png",
        "reward.png",
        "time.png",
    ]
    assert tracking.wait_for_follower(training.dir, 1)


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a run directory"):
        sync(tmp_path, print)
    with pytest.raises(ConfigError, match="not a run directory"):
        follow(tmp_path)


class Flaky:
    """A tracker that fails when told to."""

    name = "flaky"

    def __init__(self) -> None:
        self.broken = False
        self.got: list[int] = []
        self.endings: list[str] = []

    def open(self, *, running: bool) -> None:
        if self.broken:
            raise ConnectionError("nobody there")

    def send(self, lines: Sequence[Line]) -> None:
        self.open(running=True)
        self.got += [int(line["step"]) for line in lines]

    def describe(self) -> None:
        self.open(running=True)

    def finish(self, ending: Ending) -> None:
        self.open(running=False)
        self.endings.append(ending.state)


def test_an_outage_is_one_warning_and_one_caught_up_line(train: Train, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "retrain.tracking")
    training, sink = train().steps(1, 2), Flaky()
    mirror = Mirror(RunFolder(training.dir), sink, Sent.load(training.dir, "flaky"))
    (training.dir / "tracking").mkdir()
    thread = MirrorThread(mirror, patience=60)
    thread.start()
    wait_until(lambda: sink.got == [1, 2])
    sink.broken = True
    training.steps(3, 5)
    wait_until(lambda: Sent.load(training.dir, "flaky").problem == "ConnectionError: nobody there")
    time.sleep(2.5)  # a second attempt fails, without a word
    sink.broken = False
    wait_until(lambda: sink.got == [1, 2, 3, 4, 5])
    training.end()
    wait_until(lambda: thread.settled != "", 20)
    thread.stopped.set()
    assert sink.endings == ["done"]
    assert [record.getMessage() for record in caplog.records] == [
        "flaky: ConnectionError: nobody there; trying again until it works",
        "flaky: caught up at step 5",
    ]
    assert Sent.load(training.dir, "flaky").problem == ""


def test_a_tracker_that_stays_dead_is_given_up_after_the_run(train: Train, caplog: pytest.LogCaptureFixture):
    training, sink = train().steps(1, 3).end(), Flaky()
    sink.broken = True
    (training.dir / "tracking").mkdir()
    thread = MirrorThread(Mirror(RunFolder(training.dir), sink, Sent.load(training.dir, "flaky")), patience=0.2)
    thread.start()
    wait_until(lambda: thread.settled != "", 20)
    thread.stopped.set()
    assert f"gave up, 3 steps are not sent; retrain sync {training.dir}" in caplog.messages[-1]


def test_a_broken_tracker_does_not_stop_another(train: Train, database: Database):
    """wandb without a key, a terminal or a network cannot start; MLflow gets everything all the same."""
    training = train(wandb_project="p").steps(1, 3).end()
    follower = spawn_follower(
        training.dir, "--patience", "1", WANDB_MODE="online", WANDB_API_KEY="", HOME=str(training.dir)
    )
    assert follower.wait(120) == 0
    (run,) = database.runs(training.dir)
    assert database.points(run) == expected(lines(1, 3))
    (missing,) = tracking.pending(training.dir)
    assert missing.sink == "wandb"
    assert missing.problem


def test_what_is_wrong_with_a_run_shows_while_it_trains_and_goes_away(train: Train, database: Database):
    training = train().steps(1, 1)
    (training.dir / "tracking").mkdir()
    (mirror,) = mirrors(training.dir, Figures(RunFolder(training.dir)))
    mirror.catch_up()
    (run,) = database.runs(training.dir)
    assert "retrain.problems" not in database.tags(run)
    broken = {"rule": "truncation", "step": 1, "message": "m", "hint": "h", "evidence": {}, "until": None}
    training.update(problems=[broken])
    mirror.catch_up()
    assert database.tags(run)["retrain.problems"] == "truncation"
    assert "Problems: truncation" in database.tags(run)["mlflow.note.content"]
    training.update(problems=[broken | {"until": 2}])
    mirror.catch_up()
    assert database.tags(run)["retrain.problems"] == ""
