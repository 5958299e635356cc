"""Runs that fail in every way, with real processes: what is said of each, and what is left of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from retrain.campaign import guard, supervisor
from retrain.campaign.local import run_orders
from retrain.campaign.supervisor import LOG, Exit, supervise
from retrain.store import RunLock, RunRecord, steps_done
from tests.campaign.processes import ROOT, STEPS, marked, new_mark, order, python, until
from tests.campaign.toy_backend import FAULT_STEP

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


@pytest.fixture
def impatient(monkeypatch):
    """Hangs are seen, and ended, at once."""
    monkeypatch.setattr(supervisor, "HANG_SECONDS", 0.3)
    monkeypatch.setattr(supervisor, "LATE_SECONDS", 1.0)
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.1)


def run_all(orders, max_workers=2):
    changes = []
    found = run_orders(
        orders, max_workers=max_workers, on_change=lambda *change: changes.append(change), stop=threading.Event()
    )
    return [exit_ for exit_ in found if exit_ is not None], changes


@linux
def test_each_of_six_runs_is_recorded_and_five_are_completed_once_the_cause_is_gone(tmp_path, impatient):
    mark = new_mark()
    faults = ["raise", "exit", "kill", "hang", "memory", ""]
    orders = [
        order(tmp_path / (fault or "fine"), mark=mark, fault=fault, stall_timeout=2.0 if fault == "hang" else 0.0)
        for fault in faults
    ]
    found, changes = run_all(orders)
    assert [exit_.state for exit_ in found] == ["failed"] * 5 + ["done"]
    where = f'in phase "train" after step {FAULT_STEP - 1}'
    reasons = [exit_.exit_reason for exit_ in found]
    assert reasons[:2] == ["ValueError: the cause", "something called sys.exit(7)"]
    assert reasons[2].startswith(f"killed by SIGKILL {where}"), reasons[2]
    assert reasons[3].startswith("it hung: no progress for ")
    assert reasons[3].endswith(f"{where}; where each thread was: {tmp_path / 'hang' / 'stacks.txt'}")
    assert "toy_backend.py" in (tmp_path / "hang" / "stacks.txt").read_text()
    assert reasons[4:] == ["out of memory: MemoryError", ""]
    assert [exit_.code for exit_ in found] == [1, 7, None, None, 1, 0]
    assert [exit_.signal for exit_ in found] == ["", "", "SIGKILL", "SIGKILL", "", ""]
    for asked, exit_ in zip(orders, found, strict=True):
        assert json.loads(Path(asked.directory, "exit.json").read_text()) == asdict(exit_)
    assert sorted(changes, key=lambda change: change[0]) == [
        change for index, exit_ in enumerate(found) for change in ((index, None), (index, exit_))
    ]
    assert not marked(mark)

    untouched = {path: path.stat().st_mtime_ns for path in (tmp_path / "fine").iterdir()}
    found, _ = run_all([order(tmp_path / fault, mark=mark) for fault in faults[:5]])
    assert [(exit_.state, exit_.exit_reason) for exit_ in found] == [("done", "")] * 5
    assert all(steps_done(tmp_path / (fault or "fine")) == STEPS for fault in faults)
    assert untouched == {path: path.stat().st_mtime_ns for path in (tmp_path / "fine").iterdir()}
    assert not marked(mark)


PARENT = """
import pickle, sys, threading
from retrain.campaign.local import run_orders
run_orders(pickle.load(sys.stdin.buffer), max_workers=2, on_change=lambda *_: None, stop=threading.Event())
"""


@linux
def test_runs_end_within_seconds_of_a_killed_parent_and_can_be_gone_on_with_at_once(tmp_path):
    import pickle

    mark = new_mark()
    folders = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert parent.stdin
    parent.stdin.write(pickle.dumps([order(folder, mark=mark, seconds=0.3) for folder in folders]))
    parent.stdin.close()
    assert until(lambda: all(steps_done(folder) for folder in folders))
    assert len(marked(mark)) == 6, "a guard, a run and what it started, twice"
    parent.kill()
    parent.wait()
    found, _ = run_all([order(folder, mark=mark) for folder in folders])  # waits for those that still save
    assert [exit_.state for exit_ in found] == ["done"] * 2
    assert all(steps_done(folder) == STEPS for folder in folders)
    assert until(lambda: not marked(mark))


@linux
def test_a_killed_guard_takes_its_run_along_and_the_next_attempt_goes_on(tmp_path):
    mark = new_mark()
    asked = order(tmp_path / "run", mark=mark, seconds=0.2, max_retries=1)

    def kill_guard():
        assert until(lambda: steps_done(tmp_path / "run") >= 1)
        (first,) = [pid for pid in marked(mark) if os.getpgid(pid) == pid]
        os.kill(first, signal.SIGKILL)

    killer = threading.Thread(target=kill_guard)
    killer.start()
    found = supervise(asked)
    killer.join()
    assert (found.state, found.attempts) == ("done", 2)
    assert steps_done(tmp_path / "run") == STEPS
    assert "attempt 1 failed: killed by SIGKILL" in (tmp_path / "run" / LOG).read_text()
    assert not marked(mark)


@linux
def test_a_run_that_does_not_answer_is_killed_by_its_guard_when_nobody_supervises_it(tmp_path):
    mark = new_mark()
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from retrain.campaign import guard
guard.STOP_SECONDS = 0.5
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a command that is executed inherits
guard.main(os.getppid() + 1, ["sleep", "3600"])
"""
    begin = time.monotonic()
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=os.environ | {"TOY_MARK": mark})
    assert leader.wait(10) == -signal.SIGKILL
    assert time.monotonic() - begin > 0.5
    assert until(lambda: not marked(mark))


@linux
def test_a_killed_guard_takes_its_run_along_though_nobody_supervises_it(tmp_path):
    mark = new_mark()
    command = [*supervisor.GUARD, str(os.getpid()), "sleep", "3600"]
    leader = subprocess.Popen(command, start_new_session=True, env=os.environ | {"TOY_MARK": mark})
    assert until(lambda: any(b"3600" in Path(f"/proc/{pid}/cmdline").read_bytes()[:11] for pid in marked(mark)))
    leader.kill()
    leader.wait()
    assert until(lambda: not marked(mark))


@linux
def test_stopping_lets_a_run_save_its_last_step(tmp_path):
    stop, mark = threading.Event(), new_mark()
    folders = [tmp_path / "one", tmp_path / "two"]
    watcher = threading.Thread(target=lambda: (until(lambda: steps_done(folders[0]) >= 2), stop.set()))
    watcher.start()
    orders = [order(folder, mark=mark, seconds=0.2, max_retries=5) for folder in folders]
    first, second = run_orders(orders, max_workers=1, on_change=lambda *_: None, stop=stop)
    watcher.join()
    assert first is not None
    assert second is None, "it was never started"
    assert (first.state, first.exit_reason) == ("interrupted", "stopped by SIGTERM")
    assert (first.code, first.attempts) == (130, 1)
    assert RunRecord.read(folders[0]).state == "interrupted"
    assert not (folders[1] / "exit.json").exists()
    assert not marked(mark)


def test_a_run_that_does_not_stop_is_killed_and_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.3)
    stop = threading.Event()
    hangs = tmp_path / "run" / "checkpoints" / "step-2"
    watcher = threading.Thread(target=lambda: (until(hangs.exists), time.sleep(0.5), stop.set()))
    watcher.start()
    found = supervise(order(tmp_path / "run", fault="hang"), stop=stop)
    watcher.join()
    assert (found.state, found.signal) == ("interrupted", "SIGKILL")
    assert found.exit_reason == "killed, since it did not stop within 0.3 s"


def test_an_exception_in_the_supervisor_ends_the_run_and_goes_on(tmp_path, monkeypatch):
    mark = new_mark()

    def interrupted(*_):
        assert until(lambda: steps_done(tmp_path / "run"))
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "_watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        supervise(order(tmp_path / "run", mark=mark, seconds=0.2))
    assert RunRecord.read(tmp_path / "run").state == "interrupted"
    found = Exit.read(tmp_path / "run")
    assert found is not None
    assert (found.state, found.exit_reason) == ("interrupted", "its supervisor was stopped")
    assert not marked(mark)


def test_a_crash_is_tried_again_but_not_more_often_than_asked(tmp_path):
    found = supervise(order(tmp_path / "run", fault="kill", max_retries=2))
    assert (found.state, found.attempts) == ("failed", 3)
    assert steps_done(tmp_path / "run") == FAULT_STEP - 1


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("refuse", None, "the loss is not finite"),
        ("", "print('error: a.toml:3: one'); print('error: two'); raise SystemExit(2)", "a.toml:3: one\ntwo"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(tmp_path, fault, code, reason):
    command = python(code) if code else ()
    found = supervise(order(tmp_path / "run", fault=fault, command=command, max_retries=3))
    assert (found.state, found.exit_reason, found.attempts) == ("failed", reason, 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "its process ended with code 0 before it was done"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os; os.abort()", "killed by SIGABRT while it was loading"),
    ],
)
def test_a_run_that_never_wrote_anything_is_told_by_its_process(tmp_path, code, reason):
    found = supervise(order(tmp_path / "run", command=python(code)))
    assert (found.state, found.exit_reason) == ("failed", reason)


def test_a_program_that_is_not_there_is_named(tmp_path):
    found = supervise(order(tmp_path / "run", command=("/no/such/program",), max_retries=3))
    assert found.exit_reason == "/no/such/program cannot be started: No such file or directory"
    assert (found.state, found.attempts) == ("failed", 1)


def test_a_timeout_counts_all_attempts_and_is_not_tried_again(tmp_path, impatient):
    begin = time.monotonic()
    found = supervise(order(tmp_path / "run", fault="hang", timeout=8.0, max_retries=5))
    assert time.monotonic() - begin < 20
    assert (found.state, found.attempts) == ("failed", 1)
    assert found.exit_reason == 'stopped after 8 s, its timeout, in phase "train" after step 2'


def test_a_run_that_prints_nothing_while_it_loads_hangs_and_one_that_does_goes_on(tmp_path, impatient, monkeypatch):
    monkeypatch.setattr(supervisor, "LATE_SECONDS", 0.0)
    silent = supervise(order(tmp_path / "a", command=python("import time; time.sleep(3600)"), stall_timeout=1.0))
    assert silent.exit_reason == "it hung: no progress for 1 s while it was loading"
    talking = "import time\nfor _ in range(20): print('.', flush=True); time.sleep(0.1)"
    found = supervise(order(tmp_path / "b", command=python(talking), stall_timeout=1.0))
    assert found.exit_reason == "its process ended with code 0 before it was done"


def test_a_run_that_somebody_else_trains_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "STOP_SECONDS", 0.0)
    (tmp_path / "run").mkdir()
    lock = RunLock.take(tmp_path / "run")
    found = supervise(order(tmp_path / "run", max_retries=3))
    lock.release()
    assert found.state == "failed"
    assert f"is being trained by process {os.getpid()}" in found.exit_reason
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_log_without_end_is_cut(tmp_path, impatient, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_BYTES", 100_000)
    code = "import time\nfor n in range(40): print('word ' * 2000, flush=True); time.sleep(0.05)\ntime.sleep(1)\n1 / 0"
    found = supervise(order(tmp_path / "run", command=python(code)))
    assert found.exit_reason == "ZeroDivisionError: division by zero"
    assert (tmp_path / "run" / LOG).stat().st_size < 300_000
    assert (tmp_path / "run" / f"{LOG}.1").stat().st_size > 100_000


def test_the_reason_is_found_though_the_log_was_just_moved_aside(tmp_path):
    (tmp_path / f"{LOG}.1").write_text("Traceback (most recent call last):\nValueError: it\n")
    (tmp_path / LOG).write_text("")
    assert "ValueError: it" in supervisor._said(tmp_path, 500, time.time() - 5)
    assert supervisor._said(tmp_path, 500, time.time() + 5) == ""
