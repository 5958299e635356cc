"""What MLflow shows of a run beside its curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from retrain.tracking import view
from retrain.tracking.follower import sync
from retrain.tracking.watermark import Sent
from tests.tracking.training import Database, Training, line_of

Train = Callable[..., Training]


def synced(training: Training) -> None:
    said: list[str] = []
    assert sync(training.dir, said.append), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, store: str) -> Training:
    """A finished run of 25 steps, with everything that one can have.

    Its experiment is its own: whoever makes an experiment decides where its artifacts lie, and other tests do that
    through a server.
    """
    folder = tmp_path_factory.mktemp("whole")
    training = Training(
        folder / "mini",
        store,
        experiment="whole",
        tags={"paper": "draft", "seed": "mine"},
        log_completions=4,
        log_adapter=True,
    )
    adapter = training.dir / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    training.steps(1, 25).rollouts(1, 3, 25).end(artifact=str(adapter))
    synced(training)
    return training


def test_tags_say_what_where_and_from_which_code(finished: Training, database: Database):
    (run,) = database.runs(finished.dir)
    tags = database.tags(run)
    expected = {
        "retrain.kind": "run",
        "retrain.dir": str(finished.dir),
        "retrain.adapter": str(finished.dir / "adapter"),
        "condition": "grpo+none",
        "paper": "draft",
        "seed": "42",  # ours, whatever the user's tags say
        "mlflow.runName": "mini",
        "mlflow.source.name": "mini.toml",
        "mlflow.source.git.commit": "0123abc",
    }
    assert {key: tags.get(key) for key in expected} == expected


def test_the_note_begins_with_the_verdict_and_says_how_to_do_it_again(finished: Training, database: Database):
    """First tenth: steps 1 and 2, mean 0.25 + 1.5/80; last tenth: steps 24 and 25, mean 0.25 + 24.5/80."""
    (run,) = database.runs(finished.dir)
    first, _, second = database.tags(run)["mlflow.note.content"].split("\n")
    assert first == "**grpo+none**, seed 42: correct rate 0.27 → 0.56 over 25 steps."
    assert f"`retrain {finished.dir}/config.toml`" in second


def test_params_are_the_flat_config_without_places(finished: Training, database: Database):
    (run,) = database.runs(finished.dir)
    params = database.params(run)
    assert params["training.lr"] == "4e-05"
    assert params["algorithm.skip_uninformative"] == "true"
    assert params["model.model"] == finished.config.model.model
    assert not [key for key in params if key.startswith("logging.") or key.endswith("path")]


def test_final_values_are_means_over_the_last_tenth(finished: Training, database: Database):
    (run,) = database.runs(finished.dir)
    rows = database.rows("select key, value, step from metrics where run_uuid = ? and key like 'final/%'", run)
    rate = (line_of(24)["reward/correct_rate"] + line_of(25)["reward/correct_rate"]) / 2
    reward = (line_of(24)["reward/mean"] + line_of(25)["reward/mean"]) / 2
    assert sorted(rows) == [
        ("final/correct_rate", pytest.approx(rate), 25),
        ("final/reward", pytest.approx(reward), 25),
    ]


def test_the_data_set_is_named_once_however_often_the_run_is_opened(finished: Training, database: Database):
    sent = Sent.load(finished.dir, "mlflow")
    sent.finished = ""
    sent.save()
    synced(finished)
    query = """select name, digest, dataset_profile from datasets join inputs on source_id = dataset_uuid
               where destination_id = ?"""
    assert database.rows(query, sent.run_id) == [("arithmetic", "feedbeef", '{"num_rows": 1000}')]


def test_another_run_may_name_the_same_data_set_in_the_same_moment(train: Train, monkeypatch: pytest.MonkeyPatch):
    """Its row is there then, so that the same call finds it."""
    real, raised = mlflow.MlflowClient.log_inputs, []

    def beaten_once(*arguments, **named):
        if not raised:
            raised.append("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
            raise mlflow.MlflowException(raised[0])
        return real(*arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", beaten_once)
    synced(train().steps(1, 2).end())
    assert raised


def test_config_figures_and_adapter_are_artifacts_beside_the_store(finished: Training, database: Database):
    (run,) = database.runs(finished.dir)
    artifacts = database.artifacts(run)
    assert artifacts.is_relative_to(database.path.parent / "mlartifacts")
    assert (artifacts / "config.toml").read_bytes() == (finished.dir / "config.toml").read_bytes()
    assert sorted(file.name for file in (artifacts / "figures").iterdir()) == [
        "entropy.png",
        "length.png",
        "reward.png",
        "time.png",
    ]
    assert (artifacts / "adapter" / "adapter_config.json").exists()


def test_completions_are_one_table(finished: Training, database: Database):
    (run,) = database.runs(finished.dir)
    stored = json.loads((database.artifacts(run) / "completions.json").read_text(encoding="utf-8"))
    rows = [dict(zip(stored["columns"], row, strict=True)) for row in stored["data"]]
    assert [row["step"] for row in rows] == [1] * 4 + [3] * 4 + [25] * 4
    assert [row["task"] for row in rows[:4]] == ["arithmetic-3", "arithmetic-4", "arithmetic-5", "arithmetic-3"], (
        "tasks take turns"
    )
    assert rows[0] == {
        "step": 1,
        "task": "arithmetic-3",
        "prompt": "17+25=",
        "completion": "\\boxed{42} é",
        "answer": "42",
        "reward": 1.0,
        "finish_reason": "stop",
        "tokens": 3,
        "advantage": 0.25,
    }
    assert rows[3]["reward"] is None
    assert json.loads(database.tags(run)["mlflow.loggedArtifacts"]) == [{"path": "completions.json", "type": "table"}]


def test_a_rollout_file_that_cannot_be_read_is_left_out_and_named(
    train: Train, database: Database, caplog: pytest.LogCaptureFixture
):
    training = train().steps(1, 2).rollouts(1, 2).end()
    (training.dir / "rollouts" / "step-1.parquet").write_bytes(b"PAR1 half a file")
    synced(training)
    (run,) = database.runs(training.dir)
    stored = json.loads((database.artifacts(run) / "completions.json").read_text(encoding="utf-8"))
    assert {row[0] for row in stored["data"]} == {2}
    assert "step-1.parquet is left out" in caplog.text


def test_a_changed_parameter_of_a_resumed_run_goes_into_a_tag(train: Train, database: Database):
    training = train().steps(1, 2).end("interrupted")
    synced(training)
    training.config.training.max_steps = 60
    training.write_config(training.config)
    synced(training.resume(2).steps(3, 3).end())
    (run,) = database.runs(training.dir)
    assert database.params(run)["training.max_steps"] == "40"
    assert json.loads(database.tags(run)["retrain.resumed"]) == [
        {"key": "training.max_steps", "from": "40", "to": "60"}
    ]


def test_a_note_that_somebody_wrote_is_left_alone(train: Train, database: Database, store: str):
    training = train().steps(1, 2)
    synced(training)
    (run,) = database.runs(training.dir)
    mlflow.MlflowClient(store).set_tag(run, "mlflow.note.content", "the one in the paper")
    synced(training.steps(3, 3).end())
    assert database.tags(run)["mlflow.note.content"] == "the one in the paper"


def test_a_run_that_was_lost_with_its_store_is_sent_again_whole(
    tmp_path: Path, train: Train, database: Database, store: str
):
    training = train().steps(1, 3).end()
    synced(training)
    (run,) = database.runs(training.dir)
    sent = Sent.load(training.dir, "mlflow")
    sent.run_id, sent.finished = "0" * 32, ""
    sent.save()
    synced(training)
    other = Sent.load(training.dir, "mlflow").run_id
    assert other != run
    assert sorted(step for key, step, _, _ in database.points(other) if key == "reward/mean") == [1, 2, 3]


def test_the_experiment_has_our_view_and_a_second_run_leaves_it_as_it_is(train: Train, database: Database):
    query = "select key, value from experiment_tags join experiments using (experiment_id) where name = 'views'"
    synced(train("first", experiment="views").steps(1, 1).end())
    before = dict(database.rows(query))
    saved = json.loads(before["mlflow.sharedViewState.retrain"])
    assert saved["state"] == view.packed(view.view_state())
    assert before["mlflow.experimentKind"] == "custom_model_development"
    synced(train("second", experiment="views").steps(1, 1).end())
    assert dict(database.rows(query)) == before


def test_the_installed_mlflow_still_reads_saved_views():
    """The format is MLflow's own and not documented; its page's code is where it can be checked."""
    assert mlflow.__file__ is not None
    scripts = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    code = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in scripts.glob("*.js"))
    assert "viewStateShareKey" in code, "retrain/tracking/view.py: MLflow has renamed the view's parameter"
    assert "mlflow.sharedViewState." in code, "retrain/tracking/view.py: MLflow has renamed the view's tag"
    for field in (
        "compareRunCharts",
        "compareRunSections",
        "isAccordionReordered",
        "hideEmptyCharts",
        "metricSectionId",
        "groupByKeys",
        "useGroupedValuesInCharts",
        "globalLineChartConfig",
        "SHOW_ALL",
        "mlflow.runColor",
        "mlflow.parentRunId",
    ):
        assert field in code, f"retrain/tracking/view.py: MLflow's state has no {field} any more"
