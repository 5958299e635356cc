"""The rewards match and random."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.rewards.match import Match
from retrain.rewards.random import Random
from retrain.types import Task


def task(answer="", name="t"):
    return Task(id=name, prompt=({"role": "user", "content": "?"},), answer=answer)


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        (r"so \boxed{42}", "42", 1.0),
        (r"so \boxed{ 42 }", "42\n", 1.0),
        (r"so \boxed{41} no \boxed{42}", "42", 1.0),
        (r"so \boxed{42} no \boxed{41}", "42", 0.0),
        (r"so \boxed{042}", "42", 0.0),
        ("so 42", "42", 0.0),
        (r"so \boxed{42", "42", 0.0),
        ("", "", 0.0),
        (r"\boxed{}", "", 0.0),
        (r"\boxed{ }", " ", 0.0),
    ],
)
def test_match_compares_the_last_box_with_the_reference_and_no_answer_never_matches(text, reference, value):
    (score,) = Match().score([text], [task(reference)])
    assert score.value == value
    assert score.error == ""


@given(st.text(), st.text(), st.integers())
def test_the_coin_is_a_function_of_seed_task_and_text_alone(name, text, seed):
    def thrown(others):
        texts, tasks = [*others, text], [*(task(name="o") for _ in others), task(name=name)]
        return Random(seed=seed).score(texts, tasks)[-1].value

    assert thrown([]) == thrown(["x", "y"])
    assert thrown([]) in (0.0, 1.0)


def test_the_coin_is_fair_and_seeds_tasks_and_texts_throw_their_own():
    """4000 throws: mean 0.5, standard deviation of the mean 0.008; two coins agree half of the time."""

    def throws(seed, name):
        texts = [str(i) for i in range(4000)]
        return [score.value for score in Random(seed=seed).score(texts, [task(name=name)] * 4000)]

    one, seed, name = throws(1, "a"), throws(2, "a"), throws(1, "b")
    for coins in (one, seed, name):
        assert abs(sum(coins) / 4000 - 0.5) < 0.04
    for other in (seed, name):
        assert abs(sum(a == b for a, b in zip(one, other, strict=True)) / 4000 - 0.5) < 0.04
