"""Two runs with a seed are equal to the bit, and so is one that was stopped and resumed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from retrain import checkpoint, registry, run
from retrain.config import compose
from retrain.config.logged import logged
from retrain.errors import ConfigError
from retrain.store import RunRecord, read_metrics
from tests.e2e.conftest import outcome


def test_two_runs_with_a_seed_are_equal_and_another_seed_is_not(train):
    first, second, other = train(), train(), train("--seed", "7")
    assert outcome(first) == outcome(second)
    assert outcome(first)[0] != outcome(other)[0]


def test_a_runs_config_repeats_it(train):
    first = train("--seed", "-1")
    seed = RunRecord.read(first).seed
    assert seed >= 0
    again = run.run(compose(first / "config.toml")).dir
    assert again != first
    assert outcome(again) == outcome(first)
    assert compose(again / "config.toml").config.training.seed == seed


def stopped_after(whole, step, place):
    """A copy of a finished run as it would be had it been killed after `step`."""
    shutil.copytree(whole, place)
    for folder in checkpoint.complete(place / "checkpoints"):
        if checkpoint.step_of(folder) > step:
            shutil.rmtree(folder)
    for result in ("adapter", "model"):
        shutil.rmtree(place / result, ignore_errors=True)
    replace(RunRecord.read(place), state="running", pid=2**22 - 1, ended=None).write(place)
    return place


@pytest.mark.parametrize(
    "arguments",
    [
        ("algorithm=maxrl_gtpo_sepa", "--sepa-schedule", "auto", "--sepa-delay-steps", "0"),
        (),
        ("--num-iterations", "2", "--max-steps", "5"),
        ("--micro-batch-size", "3", "--loss-type", "grpo", "--advantage-mode", "maxrl"),
        ("--lora-rank", "0", "--lr", "1e-3"),
        ("--eval-every", "2", "--eval-examples", "12", "--eval-samples", "2", "--lr", "5e-3"),
        ("--lora-dropout", "0.2", "--kl-coef", "0.05", "--lr-schedule", "cosine", "--warmup-steps", "2"),
    ],
    ids=["sepa auto", "plain", "two passes", "micro-batches", "full fine-tune", "evaluation", "dropout, kl, cosine"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(train, tmp_path, arguments):
    whole = train(*arguments)
    expected = outcome(whole)
    for step in (0, 1, 3):  # with two passes over a batch, 1 and 3 are in the middle of one
        part = stopped_after(whole, step, tmp_path / f"part-{step}")
        assert outcome(run.resume(part).dir) == expected, f"resumed after step {step}"
        assert RunRecord.read(part).state == "done"


@pytest.mark.parametrize("mode", registry.MODES)
def test_every_mode_trains_with_finite_metrics_of_its_own_and_resumes_exactly(train, tmp_path, mode):
    planning = {"planning/share", "entropy/execution"}
    own = {"gtpo": {"gtpo/clamped_share"}, "sepa": {"sepa/lambda", *planning}, "hicra": planning}
    own["entropy_mask"] = {"entropy_mask/kept_share"}
    whole = train("--transform-mode", mode, "--max-steps", "3")
    config = compose(whole / "config.toml").config
    promised = {key for some in logged(config) if some.why_not is None for key in some.keys}
    assert read_metrics(whole)[-1].keys() - {"step", "time"} <= promised
    for line in read_metrics(whole):
        assert all(math.isfinite(value) for value in line.values())
        assert line.keys() >= set().union(*(own[name] for name in registry.MODES[mode]))
    part = stopped_after(whole, 1, tmp_path / "part")
    assert outcome(run.resume(part).dir) == outcome(whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(train, tmp_path):
    whole = train()
    part = stopped_after(whole, 3, tmp_path / "part")
    (part / "checkpoints" / "step-3" / "optimizer.pt").write_bytes(b"rubbish")
    events = []
    run.resume(part, emit=events.append)
    said = [event.message for event in events if hasattr(event, "message")]
    assert any("step-3" in message and "optimizer.pt is damaged" in message for message in said)
    assert outcome(part) == outcome(whole)


def test_there_is_nothing_to_resume_in_a_finished_or_a_living_run(train):
    done = train()
    with pytest.raises(ConfigError, match="is finished: 4 of 4 steps"):
        run.resume(done)
    replace(RunRecord.read(done), state="running").write(done)  # by this very process
    with pytest.raises(ConfigError, match=f"being trained by process {os.getpid()}"):
        run.resume(done)


def start(tmp_path, *arguments):
    command = [sys.executable, "-m", "retrain.cli.main", "tiny.toml", "--log-dir", "run", *arguments]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(directory, step, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(read_metrics(directory)) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def test_after_kill_9_the_resumed_run_equals_the_uninterrupted_one(train, tmp_path):
    long = ("--max-steps", "12", "--save-every", "2")
    whole = train(*long, "--log-dir", "whole")
    process = start(tmp_path, *long)
    wait_for_step(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = RunRecord.read(tmp_path / "run")
    assert killed.state == "running"
    assert killed.is_alive() is False
    run.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_is_recorded_as_interrupted(train, tmp_path, number):
    del train  # for the TOML
    process = start(tmp_path, "--max-steps", "2000")
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    record = RunRecord.read(tmp_path / "run")
    assert record.state == "interrupted"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ended"]
    assert Path(tmp_path / "run" / "checkpoints").exists()
