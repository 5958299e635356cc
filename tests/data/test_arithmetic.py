"""Generated sums: right answers, disjoint splits, the recipe's operations and digits."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.config.schema import Data
from retrain.data import arithmetic
from retrain.errors import ConfigError

SUM = re.compile(r"(\d+)([-+*])(\d+)=")


def sums(name="", split="train"):
    tasks = arithmetic.load(Data(source="arithmetic", name=name, split=split)).tasks
    return [(SUM.fullmatch(task.prompt[0]["content"]).groups(), task) for task in tasks]


recipes = st.builds(
    lambda operations, low, more: f"{''.join(operations)}:{low}-{low + more}",
    st.lists(st.sampled_from("+-*"), min_size=1, max_size=3, unique=True),
    st.integers(1, 6),
    st.integers(0, 2),
)


@settings(max_examples=10, deadline=None)
@given(recipes, st.sampled_from(["train", "test"]))
def test_every_answer_is_what_python_says_and_operands_have_the_digits_asked_for(recipe, split):
    operations, digits = recipe.split(":")
    low, high = map(int, digits.split("-"))
    for (a, op, b), task in sums(recipe, split):
        assert task.answer == str(eval(f"{a} {op} {b}"))
        assert op in operations
        assert low <= len(a) <= high
        assert low <= len(b) <= high
        assert op != "-" or int(task.answer) >= 0


def test_the_default_is_two_digit_additions_and_nothing_but_the_sum():
    source = arithmetic.load(Data(source="arithmetic"))
    assert [t.prompt for t in source.tasks] == [t.prompt for _, t in sums("+:2")]
    assert len(source.tasks) == 4096
    assert source.instruction == ""
    assert source.reward == "match"
    assert re.fullmatch(r"\d\d\+\d\d=", source.tasks[0].prompt[0]["content"])


@pytest.mark.parametrize("recipe", ["", "+:1", "+-*:1-3"])
def test_no_problem_is_in_both_splits_not_even_with_its_operands_exchanged(recipe):
    def problems(split):
        return {(op, *sorted((int(a), int(b)))) for (a, op, b), _ in sums(recipe, split)}

    assert problems("train")
    assert problems("test")
    assert not problems("train") & problems("test")


@pytest.mark.parametrize("recipe", ["", "+-*:1-3", "-:1-2", "*:12"])
def test_no_problem_appears_twice(recipe):
    ids = [task.id for _, task in sums(recipe)]
    assert len(set(ids)) == len(ids)


def test_both_splits_together_hold_every_problem_of_a_small_recipe():
    """100 ordered pairs of one-digit operands."""
    assert len(sums("+:1", "train")) + len(sums("+:1", "test")) == 100


def test_small_operands_are_as_frequent_as_large_ones_until_they_run_out():
    rows = sums("*:1-3")[:90]  # nine cells in turn, ten times
    lengths = [(len(a), len(b)) for (a, _, b), _ in rows]
    assert all(lengths.count((left, right)) == 10 for left in (1, 2, 3) for right in (1, 2, 3))


@pytest.mark.parametrize("recipe", ["2", "+:", "+:0", "+:3-2", "+:13", "/:2", "+:2-", "add"])
def test_a_bad_recipe_is_named_with_the_key_and_examples(recipe):
    with pytest.raises(ConfigError) as caught:
        sums(recipe)
    (problem,) = caught.value.problems
    assert problem.key == "data.name"
    assert f'"{recipe}"' in problem.message
    assert '"+-*:1-3"' in problem.hint


def test_keys_that_mean_nothing_for_sums_are_all_reported():
    section = Data(source="arithmetic", path="x.jsonl", prompt_key="q", answer_key="a", split="dev", name="?")
    with pytest.raises(ConfigError) as caught:
        arithmetic.load(section)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"data.path", "data.prompt_key", "data.answer_key", "data.split", "data.name"}
