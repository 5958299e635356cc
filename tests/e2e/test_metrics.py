"""The table of metrics is what runs write: every key of a line is in it, and every key in it is of some line."""

import re

import pytest

from retrain import metrics, registry
from retrain.capabilities import MONEY
from retrain.store import read_metrics

QUICK = ("--max-steps", "2", "--max-tokens", "8")

PARTS = """
def score(response, reference):
    return {"reward": len(response) / 100, "length": float(len(response))}
"""


def keys_of(directory) -> set[str]:
    return {key for line in read_metrics(directory) for key in line}


@pytest.mark.parametrize("mode", registry.MODES)
def test_every_key_that_a_mode_writes_is_in_the_table(train, mode):
    unknown = {key for key in keys_of(train("--transform-mode", mode, *QUICK)) if not metrics.find(key)}
    assert not unknown


def test_runs_write_every_key_of_the_table(train, tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    evaluated = ("--eval-every", "1", "--eval-examples", "4", "--eval-samples", "2", "--eval-final-test", "true")
    written = keys_of(
        train(
            "--max-steps",
            "2",
            "--max-tokens",
            "16",
            "--data-name",  # few sums, of which an eighth is the test split
            "+:1-1",
            "--reward-type",
            "parts:score",
            "--eval-reward",
            "match",
            *evaluated,
            "--kl-coef",
            "0.1",
            "--adv-clip-max",
            "0.5",
            "algorithm.transforms=[{name: sepa}, {name: gtpo}, {name: hicra}, {name: entropy_mask}]",
            "planning.strategic_grams=['1', '2', '3', '4']",
        )
    )
    assert not {key for key in written if not metrics.find(key)}
    told = {id(metrics.find(key)) for key in written}
    assert [key for key, metric in metrics.METRICS.items() if id(metric) not in told] == [MONEY]  # local has no price


@pytest.mark.parametrize("key", metrics.METRICS)
def test_a_key_and_what_stands_for_many_are_found(key):
    one = re.sub(r"<\w+>", "4", key)
    assert metrics.find(one) == metrics.METRICS[key]


def test_shares_say_of_what():
    for key, metric in metrics.METRICS.items():
        assert (metric.unit == "share") == metric.meaning.startswith("of "), key


@pytest.mark.parametrize("key", ["", "reward", "reward/", "eval/pass_at_", "eval/pass_at_x", "plugin/own", "step/"])
def test_another_key_is_not_found(key):
    assert metrics.find(key) is None
