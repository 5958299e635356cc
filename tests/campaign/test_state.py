"""What has become of a campaign, from its manifest and the files of its runs, whatever they hold."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from retrain.campaign.manifest import Manifest
from retrain.campaign.state import Cell, Curves, eta, state_of_campaign
from retrain.runs import RunState
from tests.campaign_folder import GONE, make_campaign, make_run

MIXED = {"grpo": ["done", "running"], "hot": ["failed", "planned"]}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "abl" / "1"


def states(folder):
    return {cell.name: cell.state for cell in state_of_campaign(folder).cells}


def change(folder, name, **changes):
    Manifest.read(folder).with_run(name, **changes).write(folder)


def test_conditions_seeds_and_counts_are_those_of_the_manifest(folder):
    found = state_of_campaign(make_campaign(folder, MIXED))
    assert (found.name, found.state, found.labels, found.seeds) == ("abl", "running", ["grpo", "hot"], [42, 101])
    assert found.counts == {"done": 1, "running": 1, "failed": 1, "planned": 1}
    assert (found.steps_done, found.max_steps) == (80, 160)
    assert [cell.metric for cell in found.cells] == [0.5, None, None, None]
    assert found.baseline == "grpo"


def test_a_campaign_whose_process_is_gone_is_interrupted_and_so_are_its_runs(folder):
    make_campaign(folder, MIXED, **GONE)
    make_run(folder / "runs" / "grpo_s101", state="running", **GONE)
    found = state_of_campaign(folder)
    assert found.state == "interrupted"
    assert f"process {GONE['pid']}, which conducted it, is gone" in found.cause
    assert found.eta_seconds is None
    assert states(folder)["grpo_s101"] == "interrupted"


def test_a_run_that_is_being_started_is_running_while_the_campaign_is_alive(folder):
    make_campaign(folder, MIXED)
    (folder / "runs" / "grpo_s101" / "run.json").unlink()
    assert states(folder)["grpo_s101"] == "running"
    replace(Manifest.read(folder), **GONE).write(folder)
    assert states(folder)["grpo_s101"] == "interrupted"


def test_a_run_between_two_attempts_is_running(folder):
    make_campaign(folder, MIXED)
    make_run(folder / "runs" / "grpo_s101", state="running", **GONE)
    assert states(folder)["grpo_s101"] == "running"


def test_why_a_run_was_killed_its_supervisor_knows_best(folder):
    make_campaign(folder, MIXED, **GONE)
    make_run(folder / "runs" / "grpo_s101", state="running", **GONE)
    record = {"state": "failed", "exit_reason": "killed by SIGKILL: out of memory?\nmore", "attempts": 2}
    (folder / "runs" / "grpo_s101" / "exit.json").write_text(json.dumps(record))
    [cell] = [cell for cell in state_of_campaign(folder).cells if cell.name == "grpo_s101"]
    assert (cell.state, cell.cause) == ("failed", "killed by SIGKILL: out of memory?")


def test_a_run_that_was_done_again_by_hand_is_done(folder):
    make_campaign(folder, MIXED)
    make_run(folder / "runs" / "hot_s42", state="done", steps=40)
    assert states(folder)["hot_s42"] == "done"


def test_on_another_machine_what_was_written_lately_tells(folder):
    make_campaign(folder, MIXED, host="elsewhere")
    assert state_of_campaign(folder).state == "running"
    assert state_of_campaign(folder, now=time.time() + 3600).state == "interrupted"


def test_a_campaign_whose_runs_all_hang_is_stalled(folder):
    make_campaign(folder, MIXED)
    heart = folder / "runs" / "grpo_s101" / "heartbeat.json"
    heart.write_text(json.dumps({**json.loads(heart.read_text()), "stalled": True}))
    found = state_of_campaign(folder)
    assert (found.state, found.cause) == ("stalled", "no run of it makes progress")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 2, "runs": []}', '{"format": 1, "runs": [{}]}']
)
def test_a_damaged_manifest_never_raises(folder, text):
    make_campaign(folder, MIXED)
    (folder / "manifest.json").write_text(text)
    found = state_of_campaign(folder)
    assert (found.state, found.name, len(found.cells)) == ("damaged", "1", 0)
    assert "manifest.json" in found.cause


@pytest.mark.parametrize("values", [{"campaign": None}, {"campaign": {"max_workers": "2"}}, {"name": 3}])
def test_a_manifest_with_values_of_the_wrong_type_is_damaged(folder, values):
    make_campaign(folder, MIXED)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    assert "wrong type" in state_of_campaign(folder).cause


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "surprised"}'])
def test_a_damaged_exit_record_is_passed_over(folder, text):
    make_campaign(folder, MIXED)
    (folder / "runs" / "hot_s42" / "exit.json").write_text(text)
    assert states(folder)["hot_s42"] == "failed"


# --- the time that is left ------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_longest_worker(folder):
    """Two workers. grpo_s101: 20 steps left. hot: 40 + 40 steps at the pace of grpo, the only one known."""
    make_campaign(folder, {"grpo": ["done", "running"], "hot": ["planned", "planned"]})
    cells = state_of_campaign(folder).cells
    whole = (cells[0].ended - cells[0].started) / 40  # seconds a step, start and evaluations included
    left = cells[1].run.eta_seconds
    assert left == pytest.approx(195, abs=2)  # 20 steps of 10 s, the last line 5 s ago
    # the first is free at once, the second after `left`: hot_s42 0 → 40, hot_s101 left → left + 40
    assert eta(cells, 2) == pytest.approx(left + 40 * whole, rel=1e-6)
    assert eta(cells, 1) == pytest.approx(left + 80 * whole, rel=1e-6)


def test_runs_that_are_under_way_keep_their_workers_while_the_others_wait(tmp_path):
    """Two workers: 300 s are left of one run, the other worker does both planned ones of 100 s."""
    run = RunState(directory=tmp_path, name="c", state="running", seconds_per_step=10.0, eta_seconds=300.0)
    shape = {"label": "a", "seed": 1, "directory": tmp_path, "state": "planned", "max_steps": 10}
    planned = [Cell(name=name, **shape) for name in "ab"]
    assert eta([*planned, Cell(name="c", run=run, **{**shape, "state": "running", "max_steps": 40})], 2) == 300


def test_without_any_step_the_time_left_is_not_known(folder):
    make_campaign(folder, {"grpo": ["planned", "planned"]})
    assert state_of_campaign(folder).eta_seconds is None


def test_the_length_of_a_run_that_has_not_begun_is_in_its_config(folder):
    make_campaign(folder, {"grpo": ["planned", "planned"]})
    config = folder / "runs" / "grpo_s42" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[training]\nmax_steps = 7\n")
    assert [cell.max_steps for cell in state_of_campaign(folder).cells] == [7, 7]


# --- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_read_on_where_the_last_look_ended(tmp_path, monkeypatch):
    path, curves = tmp_path / "metrics.jsonl", Curves()
    assert curves.of(tmp_path) == []
    path.write_text('{"step": 1, "reward/mean": -0.5}\n{"step": 2, "reward/me')
    assert curves.of(tmp_path) == [-0.5]
    path.write_text('{"step": 1, "reward/mean": -0.5}\n{"step": 2, "reward/mean":1e-3, "x/reward/mean": 9}\n')
    looked = []
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda *a, **k: looked.append(a) or opened(*a, **k))
    assert curves.of(tmp_path) == [-0.5, 0.001]
    assert len(looked) == 1


def test_a_curve_begins_anew_when_the_run_was_cut_back_to_a_checkpoint(tmp_path):
    path, curves = tmp_path / "metrics.jsonl", Curves()
    path.write_text("".join(f'{{"step": {s}, "reward/mean": 0.{s}}}\n' for s in range(1, 5)))
    assert curves.of(tmp_path) == [0.1, 0.2, 0.3, 0.4]
    os.truncate(path, path.read_text().index('{"step": 3'))
    assert curves.of(tmp_path) == [0.1, 0.2]
