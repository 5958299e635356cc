"""A search with the real trainer, from the command line: killed with -9 and resumed, it is the one that was not."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from retrain import ranking
from retrain.campaign.manifest import Manifest
from retrain.store import read_metrics
from tests.campaign.processes import until
from tests.e2e.conftest import TINY

SEARCH = """
extends = "tiny.toml"
[campaign]
sweeper = "optuna"
sweeper_options = { n_trials = 3, sampler = { name = "tpe", n_startup_trials = 1 } }
[campaign.space]
lr = "tag(log, interval(1e-4, 1e-2))"
algorithm = "grpo,maxrl"
"""
RETRAIN = (sys.executable, "-m", "retrain.cli.main")


def trials(root):
    found = optuna.load_study(study_name="search", storage=f"sqlite:///{root}/study.db").trials
    return [(trial.state.name, trial.params, trial.value) for trial in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_was_killed_and_resumed_is_the_one_that_was_not(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("every = 0", "every = 4\nexamples = 16"))
    (tmp_path / "search.toml").write_text(SEARCH)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(*arguments):
        return subprocess.Popen([*RETRAIN, *arguments], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)

    assert start("search.toml", "logging.log_dir=whole").wait() == 0
    process, root = start("search.toml", "logging.log_dir=killed"), tmp_path / "killed"
    second = until(lambda: (root / "manifest.json").exists() and Manifest.read(root).runs[1:2], 300)
    assert until(lambda: read_metrics(root / second[0].directory), 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [state for state, _, _ in trials(root)] == ["COMPLETE", "RUNNING"]
    assert start("resume", "killed").wait() == 0
    assert trials(root) == trials(tmp_path / "whole")
    assert len(trials(root)) == 3
    best = ranking.load(root).best
    assert best is not None
    assert (best.value, best.values) == max(((value, values) for _, values, value in trials(root)), key=lambda t: t[0])
    shutil.rmtree(tmp_path / "whole")
