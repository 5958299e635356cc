"""What is said of a process that ended, from what it left behind."""

import json
import time

import pytest

from retrain.campaign.endings import Attempt, memory_kills
from retrain.store import RunRecord
from retrain.watchdog import HEARTBEAT


def attempt(directory, code, said="", memory_kills=0):
    return Attempt(directory=directory, began=time.time() - 10, code=code, said=said, memory_kills=memory_kills)


def leave(directory, state, reason="", ended=0.0):
    RunRecord(
        name="a", seed=1, max_steps=9, started=0.0, state=state, exit_reason=reason, ended=ended or time.time()
    ).write(directory)


@pytest.mark.parametrize(
    ("code", "kills", "said", "reason"),
    [
        (-9, 0, "", "killed by SIGKILL while it was loading"),
        (-9, 1, "", "killed by SIGKILL while it was loading: out of memory"),
        (-9, None, "", "killed by SIGKILL while it was loading (out of memory?)"),
        (-11, 1, "", "killed by SIGSEGV while it was loading"),
        (-6, 0, "what(): std::bad_alloc", "killed by SIGABRT while it was loading: out of memory (bad_alloc)"),
        (-40, 0, "", "killed by signal 40 while it was loading"),
        (70, 0, "", "its process ended with code 70 before it was done"),
    ],
)
def test_a_process_that_left_no_record_is_told_by_its_signal_or_code(tmp_path, code, kills, said, reason):
    ending = attempt(tmp_path, code, said, kills).ending()
    assert (ending.state, ending.reason, ending.is_crash) == ("failed", reason, True)


def test_a_killed_run_is_told_with_the_phase_it_was_in(tmp_path):
    beat = {"phase": "score", "since": 0.0, "step": 7, "beat": time.time()}
    (tmp_path / HEARTBEAT).write_text(json.dumps(beat))
    assert attempt(tmp_path, -9).ending().reason == 'killed by SIGKILL in phase "score" after step 7'


@pytest.mark.parametrize(
    ("said_by_run", "reason"),
    [
        ("SystemExit: 3", "something called sys.exit(3)"),
        ("MemoryError: ", "out of memory: MemoryError"),
        ("OutOfMemoryError: CUDA out of memory", "out of memory: OutOfMemoryError: CUDA out of memory"),
        ("out of memory with one completion", "out of memory with one completion"),
        ("the loss is not finite", "the loss is not finite"),
    ],
)
def test_the_reason_of_a_run_that_failed_is_its_own(tmp_path, said_by_run, reason):
    leave(tmp_path, "failed", said_by_run)
    ending = attempt(tmp_path, 1).ending()
    assert (ending.state, ending.reason) == ("failed", reason)


def test_a_record_of_an_earlier_attempt_says_nothing_of_this_one(tmp_path):
    leave(tmp_path, "failed", "an old story", ended=time.time() - 60)
    assert attempt(tmp_path, 2, "error: a new one").ending().reason == "a new one"
    leave(tmp_path, "interrupted", "stopped by SIGTERM", ended=time.time() - 60)
    assert attempt(tmp_path, 0).ending().state == "failed"


def test_a_run_that_is_done_stays_done_however_its_process_ended(tmp_path):
    leave(tmp_path, "done")
    for code in (0, 1, -11):
        assert attempt(tmp_path, code).ending().state == "done"


def test_a_run_that_was_asked_to_stop_before_it_could_listen_is_interrupted(tmp_path):
    for code in (-15, -2, 130):
        ending = attempt(tmp_path, code).ending()
        assert (ending.state, ending.is_crash) == ("interrupted", False)


def test_an_exception_is_tried_again_and_what_the_run_itself_refused_is_not(tmp_path):
    leave(tmp_path, "failed", "ValueError: x")
    assert attempt(tmp_path, 1, "Traceback (most recent call last):\nValueError: x").ending().is_crash
    assert not attempt(tmp_path, 1, "error: the loss is not finite").ending().is_crash


def test_the_kernels_count_of_kills_is_a_number_or_unknown():
    found = memory_kills()
    assert found is None or found >= 0
