"""`retrain explain` of a campaign: counts, conditions, what could be detected, time, JSON. Starts nothing."""

import json
from pathlib import Path

import pytest

from retrain.campaign import plan
from retrain.cli import campaign_plan
from retrain.cli.main import main
from retrain.config import compose
from retrain.power import detectable_difference
from tests.campaign_folder import make_run

TOML = """\
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[training]
max_steps = 40
batch_size = 2
group_size = 8
max_tokens = 10
[campaign]
seeds = [1, 2, 3, 4]
max_workers = 2
[[campaign.conditions]]
advantage_mode = "grpo"
[[campaign.conditions]]
advantage_mode = "maxrl"
[[campaign.conditions]]
name = "hot"
overrides = ["algorithm=maxrl_gtpo_sepa", "training.temperature=1.2"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explained(capsys, *arguments, text=TOML):
    Path("abl.toml").write_text(text)
    assert main(["explain", "abl.toml", *arguments]) == 0
    return capsys.readouterr().out


def document(capsys, *arguments, text=TOML):
    return json.loads(explained(capsys, "--json", *arguments, text=text))


def test_the_first_sentence_counts_runs_conditions_seeds_completions_and_tokens(capsys):
    sentence = " ".join(explained(capsys).split("\n\n")[0].split())
    assert "builtin:tiny 12 times: 3 conditions × 4 seeds, 40 optimiser steps each" in sentence
    assert "7,680 completions and 76,800 tokens at most in all" in sentence  # 12 · 40 · 16, and 10 times that
    assert "2 at once, by processes of this machine" in sentence


def test_each_condition_shows_the_keys_in_which_they_differ_and_no_others(capsys):
    lines = explained(capsys).splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == ["condition"])
    assert [line.split() for line in lines[at : at + 4]] == [
        ["condition", "algorithm.advantage_mode", "algorithm.transform_mode", "training.temperature"],
        ["grpo+none", "(baseline)", '"grpo"', '"none"', "1.0"],
        ["maxrl+none", '"maxrl"', '"none"', "1.0"],
        ["hot", '"maxrl"', '"gtpo_sepa"', "1.2"],
    ]
    common = [line.split()[0] for line in lines if " = " in line and line.startswith("  ")]
    assert "training.batch_size" in common
    assert not {"training.seed", "training.temperature", "algorithm.advantage_mode"} & set(common)


def test_conditions_that_differ_in_many_keys_are_listed_one_value_a_line(capsys):
    many = [f'"training.{key}"' for key in ("lr=1e-3", "weight_decay=0.5", "top_p=0.9", "warmup_steps=3")]
    out = explained(capsys, text=TOML.replace('["algorithm', f'[{", ".join(many)}, "algorithm'))
    assert '\n  hot\n    algorithm.advantage_mode = "maxrl"\n' in out
    assert max(map(len, out.split("\n\n")[1].splitlines())) <= 100


def test_what_could_be_detected_is_what_the_verdict_will_test(capsys):
    found = document(capsys)["derived"]["detectable"]
    assert found == {
        "paired_deviations": detectable_difference(4, 2), "seeds": 4, "comparisons": 2, "power": 0.8, "alpha": 0.05,
    }  # fmt: skip
    assert "a difference of 2.72 standard deviations" in " ".join(explained(capsys).split())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[1, 2, 3, 4]", "[1, 2, 3]", "nothing: a verdict takes at least 4 seeds"),
        (TOML[TOML.index("[[") :], '[[campaign.conditions]]\nadvantage_mode = "grpo"\n', "nothing: there is one"),
    ],
)
def test_where_no_verdict_is_possible_it_says_so(capsys, old, new, said):
    out = explained(capsys, text=TOML.replace(old, new))
    assert f"Detects:    {said}" in out


def test_the_time_is_unknown_until_a_run_of_this_shape_has_finished_here(capsys):
    assert "Time:       unknown: no earlier run on this machine" in explained(capsys)
    assert document(capsys)["derived"]["seconds"] is None
    make_run("outputs/mini/1", state="done", steps=40, max_steps=40)
    Path("outputs/mini/1/config.toml").write_text(compose(Path("abl.toml")).to_toml())
    derived = document(capsys)["derived"]
    assert derived["seconds"] == pytest.approx(6 * 425, abs=6)  # 12 runs of 40 · 10 s + 25 s, two at once
    assert derived["seconds_from_runs"] == 1
    assert "Time:       about 42:" in explained(capsys)


def test_limits_are_shown_and_nothing_is_said_where_there_are_none(capsys):
    assert "Limits:" not in explained(capsys)
    out = explained(
        capsys, text=TOML.replace("max_workers = 2", "budget_hours = 2.5\nbudget_tokens = 1000\ntimeout = 60.0")
    )
    assert "Limits:     2.5 h, 1,000 tokens, 60 s for each run\n" in out


def test_json_has_the_keys_of_a_run_and_those_of_a_campaign(capsys):
    found = document(capsys)
    assert list(found) == ["kind", "config", "sources", "cautions", "problems", "campaign", "derived", "runs"]
    assert found["kind"] == "campaign"
    assert found["campaign"]["seeds"] == [1, 2, 3, 4]
    assert [(run["label"], run["seed"]) for run in found["runs"]][:5] == [
        ("grpo+none", 1), ("grpo+none", 2), ("grpo+none", 3), ("grpo+none", 4), ("maxrl+none", 1),
    ]  # fmt: skip
    assert all(run["directory"] == f"{found['derived']['directory']}/runs/{run['name']}" for run in found["runs"])
    assert [row["baseline"] for row in found["derived"]["conditions"]] == [True, False, False]
    assert (found["derived"]["money_at_most"], found["derived"]["budget_money"]) == ({}, 0.0)


def test_explaining_writes_nothing(capsys, folder):
    explained(capsys)
    assert [path.name for path in folder.iterdir()] == ["abl.toml"]


def test_one_cell_of_a_campaign_is_explained_alone(capsys):
    found = document(capsys, "condition=hot", "training.seed=7")
    assert [(run["label"], run["seed"]) for run in found["runs"]] == [("hot", 7)]


def test_a_multirun_is_explained_likewise(capsys):
    text = TOML[: TOML.index("[campaign]")]
    arguments = ["--multirun", "algorithm=grpo,maxrl", "training.seed=1,2"]
    found = document(capsys, *arguments, text=text)
    assert found["kind"] == "campaign"
    assert len(found["runs"]) == 4
    assert len({run["label"] for run in found["runs"]}) == 2
    assert "training.seed" not in explained(capsys, *arguments, text=text)


def test_bad_campaigns_are_refused_with_every_problem(capsys):
    Path("abl.toml").write_text(TOML.replace("[1, 2, 3, 4]", "[1, 1]").replace("max_workers = 2", "max_workers = 0"))
    assert main(["explain", "abl.toml"]) == 2
    err = capsys.readouterr().err
    assert "max_workers" in err
    assert "seeds" in err


def test_the_sentence_before_the_start_is_that_of_explain(capsys):
    Path("abl.toml").write_text(TOML)
    made = plan.make(Path("abl.toml"))
    offered, _ = campaign_plan.backends(made)
    assert campaign_plan.plan_sentence(made, offered) == document(capsys)["derived"]["sentence"]
