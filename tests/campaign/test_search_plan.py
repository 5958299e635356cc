"""A search before it starts: both spellings mean the same, its frozen base is the config, what is wrong is named."""

import tomllib
from pathlib import Path

import pytest

from retrain.campaign import search, searching
from retrain.cli import campaign
from retrain.cli.main import main
from retrain.config import compose
from retrain.errors import ConfigError

RUN = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[training]
lr = 5e-4
warmup_steps = 3
max_steps = 20
[health]
max_uninformative_steps = "${training.warmup_steps}"
"""
SEARCH = """
extends = "run.toml"
[campaign]
sweeper = "optuna"
sweeper_options = { n_trials = 7, sampler = { name = "tpe", seed = 3, n_startup_trials = 2 } }
seeds = [1, 2]
max_steps = 10
[campaign.space]
lr = "tag(log, interval(1e-5, 1e-3))"
algorithm = ["grpo", "maxrl"]
training.batch_size = "int(interval(1, 4))"
"""
SWEEP = ["--multirun", "hydra/sweeper=optuna"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(RUN)
    return tmp_path


def planned(*arguments, text=None):
    Path("s.toml").write_text(text or SEARCH)
    return campaign.planned(Path("s.toml" if text is not None else "run.toml"), arguments)


def refused(*arguments, text=None):
    with pytest.raises(ConfigError) as error:
        planned(*arguments, text=text)
    assert not Path("outputs").exists()
    return "\n".join(map(str, error.value.problems))


def test_a_table_and_a_command_line_describe_the_same_search():
    table = planned(text=SEARCH)
    line = planned(
        *SWEEP, "training.lr=tag(log, interval(1e-5, 1e-3))", "algorithm=grpo,maxrl", "campaign.max_steps=10",
        "training.batch_size=int(interval(1, 4))", "hydra.sweeper.n_trials=7", "hydra/sweeper/sampler=tpe",
        "hydra.sweeper.sampler.seed=3", "hydra.sweeper.sampler.n_startup_trials=2", "campaign.seeds=[1,2]",
        "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert table.search == line.search
    assert table.campaign == line.campaign
    assert table.composed.config == line.composed.config
    assert table.composed.config.training.max_steps == 10
    assert (table.kind, line.kind) == ("campaign", "multirun")


def test_the_command_line_beats_the_table_option_by_option():
    found = planned("hydra.sweeper.n_trials=9", "hydra.sweeper.sampler.seed=5", "training.max_steps=6", text=SEARCH)
    assert (found.search.n_trials, found.search.seed, found.search.sampler_options) == (9, 5, {"n_startup_trials": 2})
    assert found.composed.config.training.max_steps == 6
    other = planned("hydra/sweeper/sampler=random", text=SEARCH).search
    assert (other.sampler, other.seed, other.sampler_options) == ("random", 42, {})


def test_without_seeds_a_trial_has_the_runs_own_and_n_jobs_is_max_workers():
    found = planned(*SWEEP, "training.lr=1e-5,2e-5", "training.seed=9", "hydra.sweeper.n_jobs=3").campaign
    assert (found.seeds, found.max_workers) == ([9], 3)


def test_trials_of_a_space_that_ends_are_at_most_its_configurations():
    assert planned(*SWEEP, "training.lr=1e-5,2e-5", "algorithm=grpo,maxrl").search.n_trials == 4
    assert "4 configurations" in refused(
        *SWEEP, "training.lr=1e-5,2e-5", "algorithm=grpo,maxrl", "hydra.sweeper.n_trials=5"
    )


@pytest.mark.parametrize("group", ["grpo", "maxrl"])
def test_a_trial_made_of_the_frozen_base_is_what_the_command_line_would_make(folder, group):
    """Also with keys that refer to searched ones, with a choice of a group below fixed values, and edited files."""
    fixed = ["algorithm.kl_coef=0.5", "--max-tokens", "32"]
    trial = [f"algorithm={group}", "training.warmup_steps=7"]
    wanted = compose(Path("run.toml"), [*fixed, *trial]).config
    found = planned(*SWEEP, *fixed, "algorithm=grpo,maxrl", "training.warmup_steps=int(interval(3,8))")
    root = folder / "root"
    root.mkdir()
    searching.write_base(root, found)
    Path("run.toml").write_text("[training]\nlr = 1.0\n")
    made = compose(root / "campaign.toml", trial).config
    assert made == wanted
    assert made.health.max_uninformative_steps == 7


def test_a_search_is_written_down_whole_and_read_again():
    found = planned(text=SEARCH)
    assert search.Search.of(found.search.as_keys()) == found.search


def test_everything_that_is_wrong_is_named_at_once_with_its_line():
    text = SEARCH.replace("algorithm = [", "algorithm.kl_coefs = [").replace("int(interval(1, 4))", "interval(0.5, 4)")
    text = text.replace("n_trials = 7", 'n_trials = 0, direction = "up", storage = "x.db"').replace(
        "1e-5, 1e-3", "-1, 1"
    )
    said = refused(text=text)
    for part in (
        "s.toml:9: training.lr: a logarithm needs numbers above 0",
        "kl_coefs",
        "int(interval(0.5, 4))",
        "n_trials = 0 is not a whole number",
        '"up" is not a direction',
        'storage = "x.db" is not a URL',
    ):
        assert part in said, (part, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing is searched"),
        (["--lr", "1e-4"], "nothing is searched"),
        (["training.lr=interval(-1,1)"], "training.lr = -1.0 is out of range"),
        (["training.nope=interval(1,2)"], 'has no key "nope"'),
        (["algorithm=grpo,nope"], "there is no such group file"),
        (["training.lr=interval(1e-5,1e-3)", "--lr", "1e-4"], "is searched, and set on the command line"),
        (["training.lr=interval(1e-5,1e-3)", "hydra/sweeper/sampler=cmaes"], '"cmaes" is not a sampler'),
        (["training.lr=interval(1e-5,1e-3)", "hydra/sweeper/sampler=grid"], "training.lr has no end of them"),
        (["training.lr=interval(1e-5,1e-3)", "hydra.sweeper.sampler.n_startup=3"], "did you mean n_startup_trials?"),
        (["training.lr=interval(1e-5,1e-3)", "hydra.sweeper.sampler.seed=-1"], "sampler.seed = -1"),
        (["training.lr=interval(1e-5,1e-3)", "hydra.sweeper.params.x=1"], "an override of its own"),
        (["training.lr=interval(1e-5,1e-3)", "hydra.sweeper.storage=postgresql://a:b@c/d"], "holds a password"),
        (["training.lr=interval(1e-5,1e-3)", "eval.every=0"], "eval.every = 0 turns evaluation off"),
        (["training.lr=interval(1e-5,1e-3)", "campaign.baseline=grpo"], "a search has no baseline"),
        (["training.lr=interval(1e-5,1e-3)", "campaign.seeds=[1,1]"], "names one twice"),
        (["training.lr=interval(1e-5,1e-3)", "condition=hot"], "a search makes its own"),
        (["training.lr=interval(1e-5,1e-3)", "hydra.sweeper.n_jobs=2", "campaign.max_workers=3"], "differently"),
    ],
)
def test_what_no_search_can_be_made_of_is_refused(arguments, said):
    assert said in refused(*SWEEP, *arguments)


def test_a_metric_that_trials_will_not_have_is_refused_unless_what_is_searched_brings_it():
    by = "campaign.metric=gtpo/clamped_share"
    assert "gtpo is not one of the transforms" in refused(*SWEEP, by, "training.lr=1e-5,2e-5")
    said = refused(*SWEEP, by, "training.lr=1e-5,2e-5", "algorithm=grpo,maxrl_gtpo")
    assert "(in algorithm=grpo)" in said
    assert planned(*SWEEP, by, "training.lr=1e-5,2e-5", "algorithm=maxrl_gtpo,maxrl_gtpo_sepa").search.n_trials == 4


def test_a_campaign_has_conditions_or_a_space():
    assert "makes its own conditions" in refused(
        text=SEARCH.replace("[campaign.space]", "conditions = [{lr = 1e-4}]\n[campaign.space]")
    )
    assert "nothing is searched" in refused(text=SEARCH.replace('sweeper = "optuna"\n', ""))
    assert "has a [campaign] already" in refused(*SWEEP, "training.lr=1e-5,2e-5", text=SEARCH)


def test_without_a_search_an_interval_and_options_of_one_are_refused():
    assert "hydra/sweeper=optuna" in refused("--multirun", "training.lr=interval(1e-5,1e-3)")
    assert "the sweeper basic has no options" in refused("-m", "training.lr=1e-5,2e-5", "hydra.sweeper.n_trials=3")
    assert 'did you mean "optuna"' in refused("-m", "training.lr=1e-5,2e-5", "hydra/sweeper=optnua")


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "retrain[optuna]"' in refused(text=SEARCH)


def test_explain_says_what_is_searched_by_whom_and_where_it_is_kept(capsys):
    Path("s.toml").write_text(SEARCH)
    assert main(["explain", "s.toml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "14 times to search 3 keys: 7 trials × 2 seeds, 10 optimiser steps each",
        "training.lr a number from 1e-05 to 0.001, by order of magnitude (otherwise 0.0005)",
        "algorithm one of grpo, maxrl",
        "training.batch_size a whole number from 1 to 4",
        "Maximises: eval/score at the last step, the mean over seeds 1 2",
        "Sampler: tpe, seed 3, n_startup_trials = 2",
        'Study: "s" in outputs/s/',
        "study.db",
    ):
        assert part in said, part
    assert main(["explain", "s.toml", "--json"]) == 0
    assert '"trials": 7' in capsys.readouterr().out
    assert not Path("outputs").exists()


def test_what_the_campaign_writes_runs_again_as_the_same_search(folder):
    found = planned(text=SEARCH)
    root = folder / "root"
    root.mkdir()
    searching.write_base(root, found)
    again = campaign.planned(root / "campaign.toml", [])
    assert again.search == found.search
    assert tomllib.loads((root / "campaign.toml").read_text())["campaign"]["seeds"] == [1, 2]
