"""The trials of a search, best first: what has a value, what has none and why, and the campaign that finds out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from retrain import compare, ranking, report
from retrain.campaign.manifest import Manifest
from retrain.campaign.state import state_of_campaign
from retrain.cli import campaign_table
from retrain.cli.campaign_table import shown_labels
from retrain.cli.main import main
from retrain.cli.status_view import Style
from retrain.errors import ConfigError
from tests.campaign_folder import make_campaign

SCORES = {"t0,lr=0.1": 0.3, "t1,lr=0.01": 0.9, "t2,lr=0.001": 0.6}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a search of three trials whose scores are known; `states` of their runs, one for each seed."""
    monkeypatch.chdir(tmp_path)

    def make(*, states=("done",), seeds=(42,), direction="maximize", wanted=3, changes=None, state="done"):
        rows = {label: list((changes or {}).get(label, states)) for label in SCORES}
        root = make_campaign(tmp_path / "s", rows, seeds=seeds, state=state)
        manifest = Manifest.read(root)
        options = {"n_trials": wanted, "direction": direction, "sampler": {"name": "tpe", "seed": 1}}
        conditions = [
            {"label": label, "overrides": [f"training.lr={label[6:]}"], "values": {"training.lr": float(label[6:])}}
            for label in SCORES
        ]
        table = {**manifest.campaign, "sweeper": "optuna", "sweeper_options": options}
        replace(manifest, campaign=table, conditions=conditions).write(root)
        (root / "campaign.toml").write_text('[model]\nmodel = "builtin:tiny"\n[campaign]\nsweeper = "optuna"\n')
        for run in manifest.runs:
            file = root / run.directory / "metrics.jsonl"
            if run.state == "done":
                text = file.read_text().replace('"eval/score": 0.5', f'"eval/score": {SCORES[run.label]}')
                file.write_text(text)
        return root

    return make


@pytest.mark.parametrize(("direction", "best"), [("maximize", "t1,lr=0.01"), ("minimize", "t0,lr=0.1")])
def test_the_best_is_first_by_the_direction_of_the_search(made, direction, best):
    found = ranking.load(made(direction=direction))
    values = [trial.value for trial in found.trials]
    assert values == sorted(values, reverse=direction == "maximize")
    assert found.best is not None
    assert found.best.label == best
    assert found.headline == f"Best of 3 trials: {best} with eval/score {SCORES[best]:g}."


def test_a_trial_with_a_failed_run_or_without_the_metric_has_no_value_and_says_why(made):
    root = made(seeds=(1, 2), states=("done", "done"), changes={"t1,lr=0.01": ["done", "failed"]})
    blind = root / "runs" / "t2,lr=0.001_s2" / "metrics.jsonl"
    blind.write_text(blind.read_text().replace("eval/score", "eval/other"))
    found = {trial.label[:2]: trial for trial in ranking.load(root).trials}
    assert (found["t1"].state, found["t1"].value) == ("failed", None)
    assert (found["t2"].state, found["t2"].value) == ("failed", None)
    assert "has no eval/score at its last step" in found["t2"].reason
    assert found["t0"].value == pytest.approx(0.3)
    assert found["t0"].by_seed == {1: 0.3, 2: 0.3}


def test_before_the_end_it_is_the_best_so_far(made):
    root = made(wanted=5, states=("done",), changes={"t2,lr=0.001": ["running"]}, state="running")
    assert ranking.load(root).headline == "So far the best of 2 of 5 trials: t1,lr=0.01 with eval/score 0.9."
    assert ranking.load(root).trials[-1].state == "running"


def test_before_any_value_there_is_no_best(made):
    none = ranking.load(made(wanted=5, states=("running",), state="running"))
    assert none.best is None
    assert none.again == ""


def test_a_metric_that_no_trial_has_is_refused(made):
    with pytest.raises(ConfigError, match='"eval/scor" is not a metric of these runs'):
        ranking.load(made(), "eval/scor")


def test_it_is_said_that_the_best_of_many_looks_too_good(made):
    """The largest of n standard normal numbers is 0.846 of three, 1.867 of twenty on average (order statistics)."""
    said = " ".join(ranking.load(made()).warnings())
    assert "0.9 standard deviations" in said
    assert "not a verdict" in said
    assert ranking.luck(3) == pytest.approx(0.846, abs=0.03)
    assert ranking.luck(20) == pytest.approx(1.867, abs=0.01)


def test_the_report_ranks_and_leaves_the_campaign_that_finds_out(made):
    root = made()
    report.write(root)
    rows = list(csv.DictReader((root / "results.csv").open()))
    assert [row["trial"][:2] for row in rows] == ["t1", "t2", "t0"]
    assert [float(row["training.lr"]) for row in rows] == [0.01, 0.001, 0.1]
    results = json.loads((root / "results.json").read_text())
    assert results["best"] == "t1,lr=0.01"
    assert results["headline"] == compare.headline(root)  # what the tracker's note begins with
    page = (root / "report.html").read_text()
    assert page.index('<td title="t1') < page.index('<td title="t2') < page.index('<td title="t0')
    assert "looks better than it is" in page
    assert "retrain" in page.partition('<pre id="again">')[2][:20]
    assert "http" not in page.replace("http-equiv", "")


def test_the_best_is_tried_again_on_seeds_that_the_search_has_not_seen(made, capsys):
    root = made(seeds=(101, 42), states=("done", "done"))
    report.write(root)
    assert main(["explain", str(root / "best.toml"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["campaign"]["seeds"] == [202, 303, 404, 505, 606]
    assert [row["label"] for row in plan["derived"]["conditions"]] == ["start", "t1,lr=0.01"]
    assert plan["derived"]["conditions"][1]["differs"] == {"training.lr": 0.01}


def test_compare_ranks_and_by_keys_it_compares(made, capsys):
    root = made()
    assert main(["compare", str(root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["value"] for trial in document["trials"]] == [0.9, 0.6, 0.3]
    assert main(["compare", str(root), "--html", "page.html"]) == 0
    assert Path("page.html").is_file()
    lines = capsys.readouterr().out.splitlines()
    table = lines[2:6]
    assert [line.split()[0] for line in table] == ["trial", "t1", "t2", "t0"]
    assert len({line.index("done") for line in table[1:]} | {table[0].index("state")}) == 1


def test_a_search_counts_the_runs_that_nobody_has_proposed_yet(made):
    state = state_of_campaign(made(wanted=20, state="running"))
    assert (state.number, state.unasked, state.direction) == (20, 17, "maximize")
    assert state.max_steps == 20 * 40
    assert campaign_table.counted(state) == "3 of 20 done, 17 to be asked for"
    assert state.baseline == ""


def test_the_table_of_a_long_search_shows_what_goes_on_and_then_the_best(made, monkeypatch):
    monkeypatch.setattr(campaign_table, "LISTED_TRIALS", 2)
    state = state_of_campaign(made(changes={"t0,lr=0.1": ["running"]}, state="running"))
    assert shown_labels(state) == ["t0,lr=0.1", "t1,lr=0.01"]
    table = "\n".join(
        campaign_table.matrix(state, Style(width=100, colour=False, unicode=True), campaign_table.Curves())
    )
    assert "t2" not in table
    assert all(line[:2] in ("t0", "t1") for line in table.splitlines() if "lr=" in line)
    assert "1 trials more" in table


def test_a_manifest_that_does_not_say_how_many_trials_is_damaged_and_nothing_raises(made):
    root = made()
    manifest = Manifest.read(root)
    replace(manifest, campaign={**manifest.campaign, "sweeper_options": {}}).write(root)
    assert state_of_campaign(root).state == "damaged"
