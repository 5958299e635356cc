"""Launchers of Hydra's, with real jobs: what became of each run, and that nothing of Hydra's is left lying about."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace

import pytest

from retrain.campaign import launchers
from retrain.campaign.launchers import check_launcher, run_with
from retrain.campaign.supervisor import Exit
from tests.campaign.processes import ROOT, marked, new_mark, order, python, until

LOCAL = ["joblib", "submitit_local"]
KILL_SUPERVISOR = """
import os, signal, pathlib
guard = os.getppid()
supervisor = int(pathlib.Path(f"/proc/{guard}/stat").read_text().rpartition(")")[2].split()[1])
os.kill(supervisor, signal.SIGKILL)
"""
CONDUCT = """
import pickle, sys, threading
from retrain.campaign.launchers import run_with
launcher, path = sys.argv[1:]
with open(path, "rb") as file:
    orders = pickle.load(file)
run_with(launcher, {}, orders, max_workers=2, on_change=lambda *_: None, stop=threading.Event())
"""


def installed(launcher, *marks):
    """A launcher, skipped where its package is missing; SLURM also where no cluster was named for the tests."""
    problem = check_launcher(launcher, {"timeout_min": 5} if launcher == "submitit_slurm" else {})
    reason = "SLURM_CONF names no cluster" if launcher == "submitit_slurm" and not os.environ.get("SLURM_CONF") else ""
    skip = pytest.mark.skipif(problem is not None or bool(reason), reason=reason or str(problem))
    return pytest.param(launcher, marks=[*marks, skip])


JOBLIB_FIRST = [installed("joblib"), installed("submitit_local", pytest.mark.slow)]
SUBMITIT_FIRST = [installed("submitit_local"), installed("joblib", pytest.mark.slow)]


def run_all(launcher, orders, *, options=None, max_workers=2, stop=None, stop_at=None):
    """Run orders with a launcher; what it found, and what it told of each. All stop when order `stop_at` starts."""
    told, stop = defaultdict(list), stop or threading.Event()

    def on_change(index, found):
        told[index].append(found)
        if index == stop_at:
            stop.set()

    found = run_with(launcher, options or {}, orders, max_workers=max_workers, on_change=on_change, stop=stop)
    return found, told


def orders_in(tmp_path, **faults):
    return [order(tmp_path / "runs" / name, fault=fault) for name, fault in faults.items()]


@pytest.fixture
def hasty(monkeypatch):
    """A run is given up soon after the launcher is gone."""
    monkeypatch.setattr(launchers, "LOST_SECONDS", 3.0)
    monkeypatch.setattr(launchers, "HUNG_SECONDS", 8.0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.mark.parametrize("launcher", [installed(name) for name in LOCAL])
def test_every_run_ends_as_with_the_local_launcher(launcher, tmp_path):
    faults = {"fine": "", "raises": "raise", "killed": "kill", "exits": "exit"}
    expected = run_all("local", orders_in(tmp_path / "local", **faults))[0]
    orders = orders_in(tmp_path / launcher, **faults)
    found, told = run_all(launcher, orders)
    assert [end.state for end in found] == ["done", "failed", "failed", "failed"]
    assert [(e.state, e.exit_reason, e.code, e.signal) for e in found] == [
        (e.state, e.exit_reason, e.code, e.signal) for e in expected
    ]
    assert found == [Exit.read(tmp_path / launcher / "runs" / name) for name in faults]
    assert told == {index: [None, end] for index, end in enumerate(found)}
    assert list((tmp_path / "cwd").iterdir()) == []
    assert {path.name for path in (tmp_path / launcher).iterdir()} == {"runs", "launch"}
    assert not [*tmp_path.rglob(".hydra"), *tmp_path.rglob("multirun.yaml")]


@pytest.mark.parametrize("launcher", SUBMITIT_FIRST)
def test_no_more_runs_go_on_at_once_than_max_workers_says(launcher, tmp_path):
    script = python("import time, sys, pathlib; time.sleep(0.4); pathlib.Path(sys.argv[1], 'ran').touch()")
    orders = [order(tmp_path / "runs" / f"r{index}", command=script) for index in range(4)]
    found, _ = run_all(launcher, orders)
    spans = [(end.started, 1) for end in found] + [(end.ended, -1) for end in found]
    running, most = 0, 0
    for _, change in sorted(spans):
        running += change
        most = max(most, running)
    assert most == 2
    assert all((tmp_path / "runs" / f"r{index}" / "ran").exists() for index in range(4))


@pytest.mark.parametrize("launcher", [installed(name) for name in LOCAL])
def test_the_death_of_a_jobs_process_is_a_failed_run_that_names_the_launcher(launcher, tmp_path, hasty):
    killer = order(tmp_path / "runs" / "killer", command=python(KILL_SUPERVISOR))
    found, told = run_all(launcher, [killer, *orders_in(tmp_path, fine="")], max_workers=1)
    assert found[0].state == "failed"
    assert f"the launcher {launcher} lost it: " in found[0].exit_reason
    assert found[0] == Exit.read(tmp_path / "runs" / "killer")
    assert told[0] == [None, found[0]]
    if launcher == "submitit_local":  # its jobs do not die with each other, though the launcher does
        assert found[1].state == "done"
    else:
        assert found[1].state == "failed"
        assert found[1].attempts == 0


@pytest.mark.parametrize("launcher", JOBLIB_FIRST)
def test_stopping_interrupts_what_runs_and_starts_nothing_more(launcher, tmp_path):
    mark = new_mark()
    orders = [order(tmp_path / "runs" / f"r{index}", mark=mark, seconds=30.0) for index in range(3)]
    found, _ = run_all(launcher, orders, max_workers=1, stop_at=0)
    states = sorted(end.state if end else "" for end in found)
    assert states == ["", "", "interrupted"]
    assert until(lambda: not marked(mark))


@pytest.mark.parametrize("launcher", JOBLIB_FIRST)
def test_nothing_is_left_when_the_campaigns_process_is_killed(launcher, tmp_path):
    mark = new_mark()
    orders = [order(tmp_path / "runs" / f"r{index}", mark=mark, seconds=2.0) for index in range(2)]
    (tmp_path / "orders").write_bytes(pickle.dumps(orders))
    conductor = subprocess.Popen(
        [sys.executable, "-c", CONDUCT, launcher, str(tmp_path / "orders")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LAUNCH_MARK": mark},
    )
    assert until(lambda: len([*(tmp_path / "launch").rglob("*.started")]) == 2)
    assert until(lambda: len(marked(mark)) > 4)
    os.kill(conductor.pid, signal.SIGKILL)
    conductor.wait()
    assert until(lambda: not marked(mark), seconds=40)


def test_the_end_of_an_earlier_start_is_not_taken_for_this_ones(tmp_path):
    before = Exit(state="done", exit_reason="", code=0, signal="", attempts=1, started=1.0, ended=2.0)
    before.write(tmp_path)
    waiting = launchers._Waiting(0, tmp_path)
    assert not waiting.look(tmp_path)
    (tmp_path / "0.started").touch()
    assert waiting.look(tmp_path)
    assert not waiting.look(tmp_path)
    now = replace(before, state="failed")
    now.write(tmp_path)
    assert waiting.look(tmp_path)
    assert waiting.found == now


def test_a_launcher_that_cannot_start_loses_every_run(tmp_path, hasty):
    found, _ = run_all("joblib", orders_in(tmp_path, one=""), options={"pre_dispatch": "nonsense"})
    assert found[0].state == "failed"
    assert found[0].attempts == 0
    assert "the launcher joblib lost it: " in found[0].exit_reason
    log = next((tmp_path / "launch").rglob("launcher.log"))
    assert str(log) in found[0].exit_reason
    assert "nonsense" in log.read_text()


def test_an_error_of_the_caller_stops_all_runs(tmp_path):
    mark, stop = new_mark(), threading.Event()

    def on_change(index, found):
        raise OSError("the disk is full")

    orders = [order(tmp_path / "runs" / "one", mark=mark, seconds=1.0)]
    with pytest.raises(OSError, match="the disk is full"):
        run_with("joblib", {}, orders, max_workers=1, on_change=on_change, stop=stop)
    assert until(lambda: not marked(mark))
    assert Exit.read(tmp_path / "runs" / "one").state == "interrupted"


def test_orders_keep_what_they_say_on_their_way_to_a_job(tmp_path):
    script = (
        "import sys, os, json; open(sys.argv[-1] + '/seen', 'w').write(json.dumps([os.getcwd(), os.environ['A b']]))"
    )
    place = tmp_path / "it's a ${place}, é"
    place.mkdir()
    plain = order(place / "runs" / "one", command=python(script), cwd=str(place), environment={"A b": "${c},=d"})
    run_all("joblib", [plain])
    assert json.loads((place / "runs" / "one" / "seen").read_text()) == [str(place), "${c},=d"]


def test_each_slot_has_a_gpu_of_its_own(monkeypatch, tmp_path):
    from retrain.campaign.hydra_job import _on_gpu_of

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    plain, chosen = order(tmp_path / "x"), order(tmp_path / "x", environment={"CUDA_VISIBLE_DEVICES": "7"})
    seen = [_on_gpu_of(slot, 3, plain).environment["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert seen == ["GPU-a", "GPU-b", "GPU-a"]
    assert _on_gpu_of(0, 3, chosen).environment["CUDA_VISIBLE_DEVICES"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in _on_gpu_of(0, 3, order(tmp_path / "y", devices="gpu:1")).environment
    assert "CUDA_VISIBLE_DEVICES" not in _on_gpu_of(0, 1, plain).environment


# --- before anything starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local", "joblib", "submitit_local"])
def test_what_is_installed_can_be_used(name):
    assert check_launcher(name) is None


def test_an_unknown_launcher_is_named_with_those_there_are():
    problem = check_launcher("jobblib")
    assert problem.message == '"jobblib" is not a launcher; did you mean "joblib"?'
    assert {"local", "joblib", "submitit_local", "submitit_slurm", "ray"} <= set(problem.hint.split(", "))


def test_a_missing_package_comes_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(launchers.PLUGINS, "ray", ("hydra_no_such_launcher", "ray"))
    assert check_launcher("ray").hint == "pip install 'retrain[ray]'"


def test_slurm_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "needs sbatch" in check_launcher("submitit_slurm").message


def test_slurms_hour_is_not_taken_silently(monkeypatch, tmp_path):
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "60 minutes" in check_launcher("submitit_slurm").message
    assert check_launcher("submitit_slurm", {"timeout_min": 240, "partition": "gpu"}) is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("joblib", {"n_job": 2}, "no option n_job; did you mean n_jobs?"),
        ("joblib", {"n_jobs": "two"}, "does not take its options: Value 'two'"),
        ("local", {"n_jobs": 2}, "has no options, n_jobs is set"),
    ],
)
def test_options_that_a_launcher_does_not_take_are_named(name, options, message):
    assert message in check_launcher(name, options).message


# --- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [installed("ray"), installed("submitit_slurm")])
def test_a_cluster_runs_what_it_is_given(launcher, tmp_path):
    options = {"timeout_min": 5} if launcher == "submitit_slurm" else {}
    found, told = run_all(launcher, orders_in(tmp_path, fine="", killed="kill", refuses="refuse"), options=options)
    assert [end.state for end in found] == ["done", "failed", "failed"]
    assert told == {index: [None, end] for index, end in enumerate(found)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [installed("submitit_slurm")])
def test_a_job_that_slurm_loses_leaves_the_others_to_their_end(launcher, tmp_path, hasty, monkeypatch):
    monkeypatch.setattr(launchers, "QUEUE_SECONDS", 1.0)
    killer = order(tmp_path / "runs" / "killer", command=python(KILL_SUPERVISOR))
    orders = [killer, *orders_in(tmp_path, one="", two="")]
    found, _ = run_all(launcher, orders, options={"timeout_min": 5}, max_workers=1)
    assert [end.state for end in found] == ["failed", "done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [installed("submitit_slurm")])
def test_stopping_empties_the_queue(launcher, tmp_path):
    mark = new_mark()
    orders = [order(tmp_path / "runs" / f"r{index}", mark=mark, seconds=1.0) for index in range(3)]
    began = time.monotonic()
    found, _ = run_all(launcher, orders, options={"timeout_min": 5}, max_workers=1, stop_at=0)
    assert [end and end.state for end in found] == ["interrupted", None, None]
    assert not marked(mark)
    assert time.monotonic() - began < 60
    name = next((tmp_path / "launch").iterdir()).name
    queued = subprocess.run(["squeue", "--noheader", f"--name=retrain-{name}"], capture_output=True, check=True)
    assert not queued.stdout.strip()
