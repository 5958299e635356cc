"""The follower as the training process keeps it: at work while the run goes on, and never in its way."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrain import tracking
from retrain.tracking import launch
from retrain.tracking.watermark import claim
from tests.tracking.training import Training, wait_until

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """Followers that only sleep, in the order of their start."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(directory: Path) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(SLEEPER))
        return processes[-1]

    monkeypatch.setattr(tracking, "start_follower", start)
    monkeypatch.setattr(launch, "CHECK_SECONDS", 0.0)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z", 10)


def test_a_follower_that_dies_is_started_again_and_the_dead_one_is_taken_away(tmp_path: Path, started: list):
    follower = launch.Follower(tmp_path)
    follower._pause = 0.5
    for _ in range(3):
        follower.ensure()
    assert len(started) == 1
    kill(started[0])
    follower.ensure()
    assert len(started) == 1, "not before its pause is over"
    wait_until(lambda: follower.ensure() or len(started) == 2, 5)
    assert not Path(f"/proc/{started[0].pid}").exists()
    assert started[1].poll() is None


def test_one_that_keeps_dying_is_started_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list
):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    follower, starts = launch.Follower(tmp_path), []
    follower._pause = 3.0
    while now[0] < 4600:
        before = len(started)
        follower.ensure()
        if len(started) > before:
            starts.append(now[0])
            started[-1].kill()
            started[-1].wait()
        now[0] += 1
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[:7] == [3, 6, 12, 24, 48, 96, 192]
    assert set(pauses[7:]) == {launch.MAX_PAUSE_SECONDS}


def test_at_the_end_of_a_run_it_is_started_without_a_pause(tmp_path: Path, started: list):
    follower = launch.Follower(tmp_path)
    follower.ensure()
    kill(started[0])
    follower.start()
    assert len(started) == 2
    follower.start()
    assert len(started) == 2


def test_no_second_one_is_started_beside_the_follower_of_the_training_before(tmp_path: Path, started: list):
    follower = launch.Follower(tmp_path)
    with claim(tmp_path, 0):
        follower.ensure()
        follower.start()
    assert started == []
    follower.ensure()
    assert len(started) == 1


def test_a_follower_that_cannot_be_started_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(directory: Path) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(tracking, "start_follower", fail)
    follower = launch.Follower(tmp_path)
    for _ in range(3):
        follower.start()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Resource temporarily unavailable" in caplog.text


def test_a_replaced_start_function_may_start_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    launch.Follower(tmp_path).ensure()
    launch.Follower(tmp_path / "missing").start()


def test_looking_after_the_follower_costs_a_step_nothing(tmp_path: Path, started: list):
    follower = launch.Follower(tmp_path)
    follower.ensure()
    begin = time.process_time()
    for _ in range(1000):
        follower.ensure()
    assert time.process_time() - begin < 0.5, "half a millisecond a step, though each call looks"


def test_a_real_follower_killed_during_training_is_at_work_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "CHECK_SECONDS", 0.2)
    training = Training(tmp_path / "run", "none").steps(1, 1)
    follower = launch.Follower(training.dir)
    follower._pause = 0.2
    follower.ensure()
    process = follower._process
    assert process is not None
    wait_until(lambda: launch.is_claimed(training.dir), 20)
    process.kill()
    wait_until(lambda: not launch.is_claimed(training.dir), 20)
    wait_until(lambda: follower.ensure() or launch.is_claimed(training.dir), 20)
    training.end()
    assert tracking.wait_for_follower(training.dir, 30)
