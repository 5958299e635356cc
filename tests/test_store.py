"""The run directory: one writer, nothing lost, nothing twice."""

import datetime as dt
import json
import os
import subprocess
import sys
import time

import pytest

from retrain import store
from retrain.config.schema import RunConfig
from retrain.errors import ConfigError, Interrupted, RunError
from retrain.store import RunLock, RunRecord, RunStore

NOW = dt.datetime(2026, 11, 23, 4, 5, 6, tzinfo=dt.UTC)


def record(**changes):
    return RunRecord(**({"name": "mini", "seed": 42, "max_steps": 20, "started": time.time()} | changes))


def opened(directory, **changes):
    directory.mkdir(exist_ok=True)
    return RunStore(directory, RunConfig(), record(**changes), RunLock.take(directory))


def test_a_run_without_a_log_dir_goes_under_outputs_by_name_and_time():
    assert str(store.planned_directory(RunConfig(), "mini", NOW)) == "outputs/mini/2026-11-23_04-05-06"


def test_a_second_run_into_the_same_place_gets_the_next_free_name(tmp_path):
    claimed = [store.claim_directory(tmp_path / "mini") for _ in range(3)]
    assert [d.name for d in claimed] == ["mini", "mini-2", "mini-3"]


def test_processes_that_claim_at_once_get_places_of_their_own(tmp_path):
    code = "import sys, pathlib, retrain.store as s; print(s.claim_directory(pathlib.Path(sys.argv[1])))"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert len({child.communicate()[0] for child in children}) == 6


def test_a_directory_without_a_run_in_it_is_used(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "notes.md").write_text("mine")
    assert store.claim_directory(tmp_path / "mini") == tmp_path / "mini"


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        store.claim_directory(tmp_path / "file" / "run")


def test_the_lock_keeps_a_second_trainer_out_and_names_the_first(tmp_path):
    first = opened(tmp_path / "run")
    with pytest.raises(ConfigError, match=str(os.getpid())):
        opened(tmp_path / "run")
    with first.writing_outcome():
        pass
    assert RunRecord.read(tmp_path / "run").state == "done"
    opened(tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (RunError("the loss is nan"), "failed", "the loss is nan"),
        (Interrupted("stopped by SIGTERM"), "interrupted", "SIGTERM"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
        (ZeroDivisionError("oops"), "failed", "ZeroDivisionError: oops"),
    ],
)
def test_how_a_run_ends_is_recorded(tmp_path, error, state, reason):
    held = opened(tmp_path / "run")
    with pytest.raises(type(error)), held.writing_outcome():
        raise error
    ended = RunRecord.read(tmp_path / "run")
    assert ended.state == state
    assert reason in ended.exit_reason
    assert ended.ended is not None


def test_metrics_are_appended_and_read_back_without_a_torn_line(tmp_path):
    held = opened(tmp_path / "run")
    held.append_metrics(1, {"reward/mean": 0.25})
    held.append_metrics(2, {"reward/mean": 0.5})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 3, "rew')
    lines = store.read_metrics(tmp_path / "run")
    assert [(line["step"], line["reward/mean"]) for line in lines] == [(1, 0.25), (2, 0.5)]
    assert store.steps_done(tmp_path / "run") == 2
    held.update()
    assert RunRecord.read(tmp_path / "run").steps_done == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named_and_not_written(tmp_path, value):
    held = opened(tmp_path / "run")
    with pytest.raises(RunError, match="policy/loss"):
        held.append_metrics(1, {"policy/loss": value})
    assert store.read_metrics(tmp_path / "run") == []


def test_cutting_back_forgets_later_steps_and_the_torn_line(tmp_path):
    held = opened(tmp_path / "run")
    rollouts = tmp_path / "run" / "rollouts"
    rollouts.mkdir()
    for step in (1, 2, 3):
        held.append_metrics(step, {"reward/mean": step / 10})
        (rollouts / f"step-{step}.parquet").write_text("")
        held.write_evaluation("eval", step, [], [])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4')
    held.cut_back(2)
    held.append_metrics(3, {"reward/mean": 0.9})
    assert [line["step"] for line in store.read_metrics(tmp_path / "run")] == [1, 2, 3]
    for folder in (rollouts, tmp_path / "run" / "evaluations"):
        assert sorted(p.name for p in folder.iterdir()) == ["step-1.parquet", "step-2.parquet"]


def test_cutting_back_to_the_start_forgets_the_evaluation_before_the_first_step_too(tmp_path):
    held = opened(tmp_path / "run")
    held.append_metrics(0, {"eval/score": 0.2})
    held.append_metrics(1, {"reward/mean": 0.3})
    held.cut_back(1)
    assert [line["step"] for line in store.read_metrics(tmp_path / "run")] == [0, 1]
    held.cut_back(0)
    assert store.read_metrics(tmp_path / "run") == []


def test_a_record_knows_whether_its_process_lives(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = store.process_start(child.pid)
    living = record(pid=child.pid, process_start=started)
    assert living.is_alive() is True
    child.kill()
    child.wait()
    assert living.is_alive() is False
    assert record(pid=os.getpid(), process_start=1.0).is_alive() is False, "another process got the same pid later"
    assert record(host="elsewhere").is_alive() is None


def test_a_record_of_another_format_is_refused(tmp_path):
    opened(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        RunRecord.read(tmp_path / "run")


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"no run\.json"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize(("keep", "kept"), [("all", [1, 2, 3, 4]), ("none", []), ("2", [2, 4])])
def test_keep_rollouts_says_which_steps_stay(tmp_path, keep, kept):
    held = opened(tmp_path / "run")
    held.config.logging.keep_rollouts = keep
    assert [step for step in (1, 2, 3, 4) if held.keeps_rollouts(step)] == kept


def test_the_time_that_loading_took_is_time_that_was_worked(tmp_path):
    lock = RunLock.take(tmp_path)
    store = RunStore(tmp_path, RunConfig(), record(active_seconds=5.0), lock, began=time.time() - 60)
    with store.writing_outcome():
        pass
    assert 65 <= RunRecord.read(tmp_path).active_seconds < 100
