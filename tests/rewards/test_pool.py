"""Worker processes: order, deadlines, crashes, orphans. The workers here echo, sleep or die as they are told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrain.errors import RunError
from retrain.rewards.pool import Pool

ECHO = """
import json, os, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job == "hang":
        time.sleep(1000)
    if job == "die":
        os._exit(3)
    if job == "slow":
        time.sleep(0.2)
    print(json.dumps([os.getpid(), job]), flush=True)
"""


@pytest.fixture
def pool():
    made = []

    def of(program=ECHO, *, workers=2, timeout=30.0):
        made.append(Pool([sys.executable, "-S", "-c", program], workers=workers, timeout=timeout))
        return made[-1]

    yield of
    for each in made:
        each.close()


def alive(pid):
    """Tell whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(pids, seconds=5.0):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_answers_come_in_the_order_of_the_jobs(pool):
    jobs = ["slow" if i % 7 == 0 else i for i in range(60)]
    assert [job for _, job in pool(workers=3).run(jobs)] == jobs


def test_several_workers_share_the_jobs_and_serve_the_next_call_too(pool):
    two = pool(workers=2)
    first = {pid for pid, _ in two.run(["slow"] * 6)}
    assert len(first) == 2
    assert {pid for pid, _ in two.run(["slow"] * 6)} == first


def test_no_more_workers_start_than_there_are_jobs(pool):
    many = pool(workers=8)
    many.run([1, 2])
    assert len(many._workers) <= 2


def test_a_job_that_hangs_is_killed_at_the_deadline_and_costs_only_itself(pool):
    began = time.monotonic()
    hung, *others = pool(workers=1, timeout=0.5).run(["hang", 1, 2])
    assert hung == "timed out after 0.5 s"
    assert [job for _, job in others] == [1, 2]
    assert 0.5 <= time.monotonic() - began < 5


def test_a_worker_that_dies_costs_its_job_and_is_replaced(pool):
    one, died, two = pool(workers=1).run([1, "die", 2])
    assert died == "the scoring process ended with exit code 3"
    assert one[0] != two[0]


def test_a_worker_killed_between_two_calls_costs_nothing(pool):
    single = pool(workers=1)
    ((pid, _),) = single.run([1])
    os.kill(pid, signal.SIGKILL)
    assert ended([pid])
    assert [job for _, job in single.run([2, 3])] == [2, 3]


def test_close_ends_all_processes_and_may_be_called_twice(pool):
    two = pool(workers=2)
    pids = {pid for pid, _ in two.run(["slow"] * 4)}
    two.close()
    assert not any(map(alive, pids))
    two.close()


def test_an_interrupt_leaves_no_job_that_would_answer_into_the_next_call(pool, monkeypatch):
    single = pool(workers=1)
    single.run([0])
    monkeypatch.setattr(single, "_receive", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        single.run(["slow"] * 2)
    monkeypatch.undo()
    assert [job for _, job in single.run([7])] == [7]


@pytest.mark.parametrize(
    ("program", "said"),
    [("raise SystemExit(4)", "exit code 4"), ("print('\"no such module\"')", "no such module")],
)
def test_workers_that_cannot_start_end_the_run_with_the_reason(pool, program, said):
    with pytest.raises(RunError, match=f"a scoring process cannot start: .*{said}"):
        pool(program).run([1])


def test_a_large_job_and_odd_text_pass_through(pool):
    jobs = ["x" * 1_000_000, "line\nline\r\u2028", "\ud800", "😀"]
    assert [job for _, job in pool(workers=1).run(jobs)] == jobs


ORPHANS = """
import sys, time
from retrain.config.schema import Reward
from retrain.rewards.math import Math
from retrain.types import Task

reward = Math(Reward(timeout=2.0, workers=2))
tasks = [Task(id="t", prompt=(), answer="41")] * 4
reward.score([f"\\\\boxed{{{i}}}" for i in range(4)], tasks)
print(*[worker.process.pid for worker in reward._pool._workers], flush=True)
if sys.argv[1] == "busy":
    reward.score(["\\\\boxed{9^{9^{9^{9}}}}"] + ["\\\\boxed{10^{10^{10}}}"], tasks[:2])
time.sleep(1000)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_end_when_their_parent_is_killed_even_in_the_middle_of_a_parse(state):
    """An idle one at the end of its input; one that hangs in C code by the alarm, a second after its deadline."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, state], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    assert all(map(alive, pids))
    time.sleep(0.5)  # in the busy case the hostile parses have begun
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ended(pids, seconds=8)
