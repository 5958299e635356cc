"""The study: the same seed proposes the same, also by a process that came later; each trial is told once."""

import math
from dataclasses import replace

import optuna
import pytest

from retrain.campaign.search import Search
from retrain.campaign.space import read
from retrain.campaign.trials import Trials
from retrain.errors import ConfigError

SPACE = (
    read("training.lr", "tag(log, interval(1e-5, 1e-1))"),
    read("algorithm", "choice(grpo,maxrl)"),
    read("training.batch_size", "int(interval(1, 64))"),
)
SEARCH = Search(space=SPACE, study_name="s", n_trials=30, seed=1)
GRID = replace(SEARCH, space=(read("algorithm", "choice(a,b,c)"), read("training.batch_size", "range(1,4)")))


def value_of(values):
    """Best at lr 1e-3 with maxrl."""
    return -abs(math.log10(values["training.lr"]) + 3) + (values["algorithm"] == "maxrl")


def proposed(root, search, number, *, reopened=False, objective=value_of):
    """The values of so many trials, one after another; with a new process for each, if it is `reopened`."""
    root.mkdir(exist_ok=True)
    trials, found = Trials(root, search, "ours"), []
    for _ in range(number):
        if reopened:
            trials = Trials(root, search, "ours")
        trial = trials.ask(lambda index, values: f"t{index}")
        trials.tell(trial.label, objective(trial.values))
        found.append(dict(trial.values))
    return found


def study(root):
    return optuna.load_study(study_name="s", storage=f"sqlite:///{root / 'study.db'}")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_proposes_the_same_also_when_each_trial_has_a_process_of_its_own(tmp_path, sampler):
    search = replace(SEARCH, sampler=sampler)
    once = proposed(tmp_path / "a", search, 14)
    assert proposed(tmp_path / "b", search, 14, reopened=True) == once
    assert proposed(tmp_path / "c", replace(search, seed=2), 3) != once[:3]


def test_tpe_comes_nearer_to_the_best_than_chance_does(tmp_path):
    """By the mean of the last ten of thirty trials: a sampler that learns nothing from values would not."""
    by = {name: proposed(tmp_path / name, replace(SEARCH, sampler=name), 30) for name in ("tpe", "random")}
    late = {name: sum(map(value_of, found[20:])) / 10 for name, found in by.items()}
    assert late["tpe"] > late["random"] + 0.5


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_no_configuration_is_tried_twice_while_there_is_another(tmp_path, sampler):
    found = proposed(tmp_path, replace(GRID, sampler=sampler, n_trials=9), 9, objective=lambda values: 1.0)
    assert len({tuple(values.items()) for values in found}) == 9


def test_trials_that_run_side_by_side_are_not_the_same(tmp_path):
    trials = Trials(tmp_path, SEARCH, "ours", side_by_side=True)
    for index in range(12):
        trials.tell(trials.ask(lambda number, values: f"t{number}").label, float(index))
    waiting = [trials.ask(lambda number, values: f"t{number}").values["training.lr"] for _ in range(3)]
    assert len(set(waiting)) == 3


def test_a_trial_is_told_once_and_one_without_a_value_has_failed(tmp_path):
    trials = Trials(tmp_path, SEARCH, "ours")
    for value in (0.5, None):
        label = trials.ask(lambda number, values: f"t{number}").label
        trials.tell(label, value)
        trials.tell(label, 0.7 if value else None)  # by a campaign that goes on, and does not know what was told
    assert [(trial.state.name, trial.value) for trial in study(tmp_path).trials] == [("COMPLETE", 0.5), ("FAIL", None)]


def test_a_failed_trial_that_was_run_again_is_a_further_one_of_the_study_alone(tmp_path):
    trials = Trials(tmp_path, SEARCH, "ours")
    trial = trials.ask(lambda number, values: f"t{number}")
    for value in (None, 0.4, 0.4):
        trials.tell(trial.label, value)
    assert [(each.state.name, each.params == dict(trial.values)) for each in study(tmp_path).trials] == [
        ("FAIL", True),
        ("COMPLETE", True),
    ]
    assert [each.label for each in Trials(tmp_path, SEARCH, "ours").asked()] == ["t0"]


def test_two_campaigns_may_share_a_study_and_know_their_own_trials(tmp_path):
    shared = replace(SEARCH, storage=f"sqlite:///{tmp_path / 'shared.db'}")
    proposed(tmp_path, shared, 2)
    other = Trials(tmp_path, shared, "theirs")
    other.ask(lambda number, values: f"t{number}")
    assert len(other.asked()) == 1
    assert len(Trials(tmp_path, shared, "ours").asked()) == 2


def test_a_study_of_another_search_is_refused(tmp_path):
    proposed(tmp_path, SEARCH, 1)
    with pytest.raises(ConfigError, match="is to maximize, not to minimize"):
        Trials(tmp_path, replace(SEARCH, direction="minimize"), "ours")
    with pytest.raises(ConfigError, match="has searched another algorithm"):
        Trials(tmp_path, replace(SEARCH, space=(read("algorithm", "choice(grpo,rloo)"),)), "ours")


def test_a_storage_that_cannot_be_opened_is_an_error_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be opened in sqlite:////nowhere/x\.db"):
        Trials(tmp_path, replace(SEARCH, storage="sqlite:////nowhere/x.db"), "ours")


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a b%?#é"
    folder.mkdir()
    proposed(folder, SEARCH, 1)
    assert [file.name for file in folder.iterdir()] == ["study.db"]
