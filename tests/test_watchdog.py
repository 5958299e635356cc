"""The watchdog, on real hangs: of a thread, of a child process, of code that holds the interpreter."""

import ctypes
import json
import subprocess
import sys
import threading
import time

import pytest

from retrain.config.schema import Reward as Section
from retrain.rewards.math import Math
from retrain.types import Task
from retrain.watchdog import MAX_STALLS, Watchdog, child_processes, read_heartbeat

TIMEOUT = 0.4


class Told(list):
    """What on_stall was called with."""

    def __call__(self, what):
        self.append(what)


def until(true, seconds=8.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def stacks(directory):
    path = directory / "stacks.txt"
    return path.read_text() if path.exists() else ""


def test_a_run_without_a_heartbeat_or_with_a_damaged_one_has_none(tmp_path):
    assert read_heartbeat(tmp_path) is None
    for text in ("", "{", "[]", "3", '{"phase": "train"}'):
        (tmp_path / "heartbeat.json").write_text(text)
        assert read_heartbeat(tmp_path) is None


def test_the_heartbeat_follows_the_phases(tmp_path):
    with Watchdog(tmp_path, 60, Told()) as watchdog:
        before = time.time()
        watchdog.phase("generate", 3)
        until(lambda: read_heartbeat(tmp_path).phase == "generate")
        found = read_heartbeat(tmp_path)
        assert (found.step, found.stalled, found.stacks) == (3, False, "")
        assert before - 0.1 <= found.since == found.beat <= time.time()
        watchdog.phase("train", 3)
        watchdog.beat()
    assert read_heartbeat(tmp_path).phase == "train"  # also what came just before the end
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat.json"]


def test_its_keys_are_those_that_readers_know(tmp_path):
    with Watchdog(tmp_path, 60, Told()):
        pass
    assert list(json.loads((tmp_path / "heartbeat.json").read_text())) == [
        "phase", "since", "step", "beat", "stalled", "stacks",
    ]  # fmt: skip


def hang_here(event):
    event.wait()


def test_a_stall_leaves_the_stacks_of_all_threads_and_a_mark_until_it_goes_on(tmp_path):
    told, go_on = Told(), threading.Event()
    other = threading.Thread(target=hang_here, args=(go_on,), name="scorer", daemon=True)
    other.start()
    with Watchdog(tmp_path, TIMEOUT, told) as watchdog:
        watchdog.phase("score", 7)
        until(lambda: read_heartbeat(tmp_path).stalled)
        assert read_heartbeat(tmp_path).stacks == "stacks.txt"
        text = stacks(tmp_path)
        assert 'in phase "score" after step 7' in text
        assert "Thread scorer" in text
        assert "in hang_here" in text
        assert "Thread MainThread" in text
        assert "in test_a_stall_leaves" in text
        watchdog.beat()
        until(lambda: not read_heartbeat(tmp_path).stalled)
        assert read_heartbeat(tmp_path).stacks == ""
    go_on.set()
    other.join()
    assert len(told) == 1
    assert str(tmp_path / "stacks.txt") in told[0]
    assert stacks(tmp_path) == text


def test_signs_of_progress_keep_it_quiet(tmp_path):
    told = Told()
    with Watchdog(tmp_path, 1.0, told) as watchdog:
        for _ in range(30):
            time.sleep(0.05)
            watchdog.beat()
    assert told == []
    assert not (tmp_path / "stacks.txt").exists()


def test_each_stall_is_told_once_and_only_the_first_few_are_written(tmp_path):
    told = Told()
    with Watchdog(tmp_path, 0.1, told) as watchdog:
        for number in range(MAX_STALLS + 2):
            watchdog.beat()
            until(lambda n=number: len(told) > n)
            time.sleep(0.15)  # the same stall, longer
            assert len(told) == number + 1
    assert stacks(tmp_path).count("\n=== ") == MAX_STALLS
    assert "stacks.txt" in told[0]
    assert "stacks.txt" not in told[-1]


def test_children_and_their_children_are_listed_and_left_alone(tmp_path):
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & wait"])
    try:
        until(lambda: "sleep 1000" in child_processes().partition("wait")[2])
        text = child_processes()
        assert f"process {child.pid}, waiting" in text
        assert text.index(f"process {child.pid}") < text.rindex("sleep 1000")
        time.sleep(0.1)
        assert child.poll() is None
    finally:
        for pid in [line.split()[1].rstrip(",") for line in text.splitlines() if "sleep 1000" in line]:
            subprocess.run(["/bin/kill", pid], check=False)
        child.wait(5)


def test_a_reward_process_that_hangs_in_c_says_where(tmp_path):
    """A tower of powers: no handler written in Python would run in that process."""
    reward, told = Math(Section(timeout=20.0, workers=1)), Told()
    tasks = [Task(id="t", prompt=(), answer="41")]
    reward.score(["\\boxed{41}"], tasks)  # it has started
    pool = reward._pool
    worker = pool._workers[0].process
    hangs = threading.Thread(target=reward.score, args=(["\\boxed{9^{9^{9^{9}}}}"], tasks), name="score")
    with Watchdog(tmp_path, TIMEOUT, told) as watchdog:
        watchdog.phase("score", 0)
        hangs.start()
        until(lambda: told)
    worker.kill()
    hangs.join()
    reward.close()
    text = stacks(tmp_path).partition(f"process {worker.pid}, running")[2]
    assert "math_worker.py" in text
    assert " in verdict" in text


UNREADY = "import os, time; os.memfd_create('retrain-stacks'); print(flush=True); time.sleep(1000)"


def test_a_process_that_would_die_of_the_question_is_not_asked():
    """One that has the file already and not yet the handler."""
    with subprocess.Popen([sys.executable, "-S", "-c", UNREADY], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert f"process {child.pid}," in child_processes()
        time.sleep(0.1)
        assert child.poll() is None
        child.kill()


HELD = """
import ctypes, sys
from pathlib import Path
from retrain.watchdog import Watchdog

def holds_the_interpreter():
    ctypes.PyDLL(None).sleep(1000)

with Watchdog(Path(sys.argv[1]), 0.4, print) as watchdog:
    watchdog.phase("train", 1)
    holds_the_interpreter()
"""


def test_a_hang_that_holds_the_interpreter_for_ever_leaves_stacks_too(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)])
    try:
        until(lambda: "holds_the_interpreter" in stacks(tmp_path))
        heartbeat = read_heartbeat(tmp_path)
        assert heartbeat is not None
        assert not heartbeat.stalled  # nobody could write it: readers see the age of the beat
    finally:
        process.kill()
        process.wait()


def test_a_hang_that_held_the_interpreter_is_told_when_it_is_over(tmp_path):
    told = Told()
    with Watchdog(tmp_path, TIMEOUT, told) as watchdog:
        watchdog.phase("train", 1)
        time.sleep(0.1)
        ctypes.PyDLL(None).usleep(1_200_000)
        watchdog.beat()
        until(lambda: told)
    assert "no thread of Python could run for" in told[0]
    text = stacks(tmp_path)
    assert text.index("Timeout (") < text.index("\n=== ")
    assert "test_a_hang_that_held" in text.partition("\n=== ")[0]


def test_a_directory_that_is_gone_ends_nothing(tmp_path):
    told, place = Told(), tmp_path / "run"
    place.mkdir()
    with Watchdog(place, 0.1, told) as watchdog:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
        watchdog.phase("train", 1)
        until(lambda: told)
    with Watchdog(place, 0.1, told) as watchdog:
        until(lambda: len(told) == 2)


def test_a_clock_that_is_set_is_no_stall(tmp_path, monkeypatch):
    told = Told()
    with Watchdog(tmp_path, 5.0, told) as watchdog:
        monkeypatch.setattr(time, "time", lambda: 1e9)
        watchdog.phase("train", 1)
        until(lambda: read_heartbeat(tmp_path).phase == "train")
        assert read_heartbeat(tmp_path).beat == pytest.approx(1e9, abs=2)
    assert told == []
