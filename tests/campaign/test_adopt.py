"""Jobs that outlive the process of their campaign: what they train is waited for, and never trained twice."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from retrain import tracking
from retrain.campaign import adopt, conduct, plan
from retrain.campaign.hydra_job import ORDERS
from retrain.campaign.launchers import supersede
from retrain.campaign.launching import Rolling, orders_of
from retrain.campaign.manifest import Manifest
from retrain.campaign.supervisor import LOG, supervise
from retrain.store import RunRecord, read_metrics, steps_done
from tests.campaign.processes import HERE, ROOT, STEPS, marked, new_mark, order, until

TOML = """
[backend]
backend = "toy_backend:Toy"
options = { seconds = 0.6 }
[training]
max_steps = 5
save_every = 1
[logging]
tracking_uri = "none"
log_dir = "root"
[campaign]
seeds = [1, 2]
max_workers = 2
launcher = "joblib"
max_retries = 0
"""
JOB = """
import sys
from types import SimpleNamespace
from retrain.campaign.hydra_job import run_order
run_order(SimpleNamespace(folder=sys.argv[1], order=sys.argv[2]))
"""


@pytest.fixture
def outlived(tmp_path, monkeypatch):
    """A campaign whose process is gone, with a folder of launched orders as a cluster's jobs read it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    shutil.copy(HERE / "toy_backend.py", tmp_path)
    monkeypatch.setenv("TOY_MARK", mark := new_mark())
    Path("abl.toml").write_text(TOML + "[[campaign.conditions]]\nname = 'a'\n")
    root, planned = tmp_path / "root", plan.make(Path("abl.toml"))
    root.mkdir()
    planned = planned.placed(root)
    conduct._write_configs(planned)
    manifest = Manifest(
        name="abl", source=str(tmp_path / "abl.toml"), kind="campaign", conditions=[{"label": "a", "overrides": []}],
        campaign=plan.keys_as_dict(planned.campaign), runs=[conduct._entry(cell) for cell in planned.cells],
        tracking_uri="none", experiment="", places=[str(tmp_path)], cwd=str(tmp_path), pid=1, process_start=-1.0,
    )  # fmt: skip
    manifest.write(root)
    folder = root / "launch" / "earlier"
    folder.mkdir(parents=True)
    orders = [*map(asdict, orders_of(root, manifest, manifest.runs).values())]
    (folder / ORDERS).write_text(json.dumps({"orders": orders, "slots": 0, "outlives": True, "host": "", "pid": 0}))
    yield root
    assert until(lambda: not marked(mark))


def job(root, index):
    """Start what a cluster runs for an order."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", JOB, str(root / "launch" / "earlier"), str(index)], env=environment)


def test_a_run_that_a_job_still_trains_is_waited_for_and_the_others_are_started(outlived, caplog):
    running = job(outlived, 0)
    first, second = outlived / "runs" / "a_s1", outlived / "runs" / "a_s2"
    assert until(lambda: steps_done(first) >= 1)
    trainer = RunRecord.read(first).pid
    assert adopt.trainer_of(first) == f"process {trainer} on {RunRecord.read(first).host}"
    assert adopt.trainer_of(second) == ""
    conduct.go_on(outlived, lambda directory, manifest: None)
    assert running.wait(20) == 0
    assert {run.name: run.state for run in Manifest.read(outlived).runs} == {"a_s1": "done", "a_s2": "done"}
    assert RunRecord.read(first).pid == trainer, "it was not started a second time"
    for run in (first, second):
        assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5]
    (said,) = [message for message in caplog.messages if "still trained" in message]
    assert f"a_s1 is still trained by process {trainer} on " in said
    late = job(outlived, 1)
    assert late.wait(20) == 0, "a job that was still in the queue does nothing"
    assert not (outlived / "launch" / "earlier" / "1.started").exists()


def test_a_trial_that_a_job_still_trains_is_waited_for_too(outlived):
    running, first, manifest = job(outlived, 0), outlived / "runs" / "a_s1", Manifest.read(outlived)
    assert until(lambda: steps_done(first) >= 1)
    trainer = RunRecord.read(first).pid
    launcher = Rolling(outlived, manifest, threading.Event())
    launcher.start(orders_of(outlived, manifest, manifest.runs[:1]))
    while launcher.is_alive():
        launcher.wait(0.5)
    told = [launcher.changes.get_nowait() for _ in range(launcher.changes.qsize())]
    assert [(name, found and found.state) for name, found in told] == [("a_s1", None), ("a_s1", "done")]
    assert running.wait(20) == 0
    assert RunRecord.read(first).pid == trainer, "it was not started a second time"
    assert launcher.defect is None


def test_a_run_whose_job_dies_is_started_again(outlived, monkeypatch):
    monkeypatch.setattr(adopt, "LOST_SECONDS", 1.0)
    running = job(outlived, 0)
    first = outlived / "runs" / "a_s1"
    assert until(lambda: steps_done(first) >= 1)
    killer = threading.Timer(1.0, running.kill)
    killer.start()
    conduct.go_on(outlived, lambda directory, manifest: None)
    running.wait()
    assert {run.state for run in Manifest.read(outlived).runs} == {"done"}
    assert [line["step"] for line in read_metrics(first)] == [1, 2, 3, 4, 5]


def test_stopping_asks_the_jobs_of_earlier_launches_to_save_and_end(outlived):
    running = job(outlived, 0)
    first, stop = outlived / "runs" / "a_s1", threading.Event()
    assert until(lambda: steps_done(first) >= 1)
    stop.set()
    found = adopt.wait(first, outlived, stop)
    assert found is not None
    assert (found.state, found.code) == ("interrupted", 130)
    assert running.wait(20) == 0
    assert RunRecord.read(first).state == "interrupted"


def test_superseding_leaves_what_runs_alone(outlived):
    running = job(outlived, 0)
    assert until(lambda: steps_done(outlived / "runs" / "a_s1") >= 1)
    supersede(outlived)
    assert running.wait(30) == 0
    assert steps_done(outlived / "runs" / "a_s1") == STEPS


def test_a_supervisor_waits_for_a_run_that_another_one_trains(tmp_path):
    asked = order(tmp_path / "run", seconds=0.8)
    other = threading.Thread(target=supervise, args=(asked,))
    other.start()
    assert until(lambda: steps_done(tmp_path / "run") >= 1)
    trainer = RunRecord.read(tmp_path / "run").pid
    found = supervise(order(tmp_path / "run", seconds=0.8, timeout=3.0))
    other.join()
    assert (found.state, found.exit_reason, found.attempts) == ("done", "", 1), "its timeout does not count the waiting"
    assert RunRecord.read(tmp_path / "run").pid == trainer
    assert f"is being trained by process {trainer} on " in (said := (tmp_path / "run" / LOG).read_text())
    assert said.count("which is waited for") == 1


def test_a_run_of_another_host_is_alive_while_it_writes(tmp_path):
    supervise(order(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"state": "running", "host": "node9", "pid": 12}))
    assert adopt.trainer_of(tmp_path / "run") == "process 12 on node9"
    for file in (tmp_path / "run").glob("*"):
        os.utime(file, (time.time() - 600,) * 2)
    assert adopt.trainer_of(tmp_path / "run") == ""
