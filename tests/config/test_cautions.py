"""What deserves a second look is said, and nothing else is."""

import pytest

from retrain.config import RunConfig
from retrain.config.cautions import cautions


def found(**keys):
    config = RunConfig()
    for dotted, value in keys.items():
        section, _, name = dotted.partition("__")
        setattr(getattr(config, section), name, value)
    return list(cautions(config))


def test_the_defaults_need_no_second_look():
    assert found() == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"training__top_p": 0.9}, "top_p = 0.9"),
        ({"algorithm__transform_mode": "gtpo_hicra", "hicra__alpha": 1.0}, "alpha = 1"),
        ({"algorithm__transform_mode": "gtpo", "gtpo__beta": 1.5}, "beta = 1.5"),
        ({"algorithm__importance_sampling_level": "sequence"}, "long completions weigh more"),
        ({"algorithm__loss_type": "luspo"}, "luspo"),
        ({"eval__source": "math", "eval__final_test": True}, 'eval.source = "math" evaluates on the test split'),
    ],
)
def test_a_second_look_names_the_value(keys, said):
    (line,) = found(**keys)
    assert said in line


@pytest.mark.parametrize("keys", [{"hicra__alpha": 0.99}, {"gtpo__beta": 1.0}])
def test_values_within_the_promise_are_quiet(keys):
    assert found(algorithm__transform_mode="gtpo_hicra", **keys) == []


@pytest.mark.parametrize("keys", [{"eval__source": "gsm8k"}, {"eval__source": "math", "eval__split": "train"}, {}])
def test_a_test_split_that_nothing_was_chosen_by_is_quiet(keys):
    assert found(eval__final_test=True, **keys) == []
