"""Names, notes and addresses: what needs no tracker to be checked."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.config.schema import RunConfig
from retrain.errors import ConfigError
from retrain.tracking import describe, resolve_tracking_uri
from retrain.tracking.folder import RunFolder
from retrain.tracking.uri import masked
from tests.tracking.training import Training

if TYPE_CHECKING:
    from pathlib import Path


def config_with(uri: str) -> RunConfig:
    config = RunConfig()
    config.logging.tracking_uri = uri
    return config


def test_the_store_is_the_configs_then_the_environments_then_sqlite_under_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking_uri(config_with("")) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert resolve_tracking_uri(config_with("")) == "http://tracker:5000"
    assert resolve_tracking_uri(config_with("sqlite:///own.db")) == f"sqlite:///{tmp_path}/own.db"
    assert resolve_tracking_uri(config_with("sqlite:////var/own.db")) == "sqlite:////var/own.db"
    assert resolve_tracking_uri(config_with("none")) == "none"


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlruns", "ftp://u:hunter2@host", "sqlite://", "sqlite:///:memory:"]
)
def test_what_mlflow_cannot_write_to_is_refused_before_training(uri: str):
    with pytest.raises(ConfigError) as caught:
        resolve_tracking_uri(config_with(uri))
    (problem,) = caught.value.problems
    assert "logging.tracking_uri" in problem.message
    assert "hunter2" not in str(problem)
    assert problem.hint


def test_passwords_in_addresses_are_masked():
    assert masked("postgresql://me:hunter2@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert masked("http://host:5000/a@b") == "http://host:5000/a@b"


def test_secrets_and_places_are_no_parameters():
    config = {
        "training": {"lr": 4e-5, "stop": ["a", "b"]},
        "data": {"path": "/home/me/d.jsonl", "source": "jsonl"},
        "backend": {"adapter_path": "/x", "options": {"api_key": "k", "hf_token": "t", "num_tokens": 3}},
        "logging": {"run_name": "mine"},
    }
    assert describe.params(config) == {
        "training.lr": "4e-05",
        "training.stop": '["a", "b"]',
        "data.source": "jsonl",
        "backend.options.num_tokens": "3",
    }


def test_a_parameter_is_cut_to_what_mlflow_keeps():
    assert len(describe.params({"data": {"system_prompt": "é" * 9000}})["data.system_prompt"]) == 6000


@given(st.text(min_size=1, max_size=300))
def test_every_metric_name_is_one_that_mlflow_takes(name: str):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(describe.metric_name(name))


@given(st.from_regex(r"[a-z][a-z0-9_.-]{0,20}(/[a-z][a-z0-9_.-]{0,20}){0,2}", fullmatch=True))
def test_a_name_within_the_alphabet_stays_as_it_is(name: str):
    assert describe.metric_name(name) == name


def test_an_environment_variable_in_the_config_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEAM", "blue")
    monkeypatch.delenv("NOBODY", raising=False)
    folder = RunFolder(Training(tmp_path / "run", "none", experiment="${oc.env:TEAM}-${oc.env:NOBODY,x}-\\${kept}").dir)
    assert folder.setting("logging.experiment") == "blue-x-${kept}"


def test_a_failed_run_says_so_before_anything_else(tmp_path: Path):
    training = Training(tmp_path / "run", "none").steps(1, 12).end("failed", exit_reason="the disk is full\nmore")
    folder = RunFolder(training.dir)
    note = describe.note(folder, training.record, folder.lines(), folder.ending())
    assert note.startswith(
        "**grpo+none**, seed 42: failed at step 12 of 40: the disk is full. Correct rate 0.26 → 0.40.\n"
    )
    assert f"`retrain resume {training.dir}`" in note


def test_starting_a_follower_imports_no_tracker():
    """The training process imports retrain.tracking, and must not pay for MLflow."""
    code = """
import sys, retrain.tracking
heavy = {"mlflow", "wandb", "pyarrow", "matplotlib", "pandas", "numpy", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def problem(rule: str, until: int | None = None) -> dict[str, object]:
    return {"rule": rule, "step": 3, "message": "m", "hint": "h", "evidence": {}, "until": until}


def test_open_problems_and_the_best_step_are_tags_and_in_the_note(tmp_path: Path):
    training = Training(tmp_path / "run", "none").steps(1, 12)
    folder = RunFolder(training.dir)
    assert not set(describe.CHANGING) & describe.tags(folder, training.record).keys()
    problems = [problem("truncation"), problem("ratio", until=9), problem("entropy_collapse"), problem("truncation")]
    training.update(problems=problems, best={"step": 40, "score": 0.7124})
    tags = describe.tags(folder, training.record)
    assert tags["retrain.problems"] == "truncation, entropy_collapse"
    assert tags["retrain.best"] == "step 40, 0.712"
    first = describe.note(folder, training.record, folder.lines(), None).split("\n")[0]
    assert first.endswith("**Problems: truncation, entropy_collapse.**")


def test_final_values_are_means_but_for_held_out_scores_which_are_the_last():
    lines = [{"step": 0, "time": 0.0, "eval/score": 0.125}]
    lines += [{"step": step, "time": 0.0, "reward/mean": step / 100, "reward/correct_rate": 0.5} for step in range(20)]
    lines[10]["eval/score"], lines[20]["test/score"] = 0.25, 0.375
    assert describe.final_metrics(lines) == pytest.approx(
        {"final/reward": 0.185, "final/correct_rate": 0.5, "final/held_out": 0.25, "final/test": 0.375}
    )
    assert describe.final_metrics(lines[:1]) == {"final/held_out": 0.125}


def test_the_note_says_how_the_held_out_score_moved(tmp_path: Path):
    training = Training(tmp_path / "run", "none")
    with (training.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 0, "time": 1.0, "eval/score": 0.125}\n')
    training.steps(1, 12)
    with (training.dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "time": 2.0, "eval/score": 0.5, "reward/correct_rate": 0.4}\n')
    folder = RunFolder(training.end().dir)
    note = describe.note(folder, training.record, folder.lines(), folder.ending())
    assert note.startswith("**grpo+none**, seed 42: correct rate 0.26 → 0.40, held out 0.12 → 0.50 over 13 steps.")
