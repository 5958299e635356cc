"""Seeds × problems: the interval against a table worked by hand and its limits, and what is read of a study."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from retrain import compare, crossed, evaluations, seeds
from retrain.evaluations import Answer
from retrain.types import Task
from tests.made_runs import STEPS, write_campaign

TABLES = st.tuples(st.integers(3, 6), st.integers(2, 7)).flatmap(
    lambda shape: arrays.arrays(float, shape, elements=st.integers(-8, 8).map(float))
)


# --- the interval -----------------------------------------------------------------------------------------------------


def test_a_table_of_three_seeds_and_two_problems_worked_by_hand():
    """Means of seeds 1.5, 3, 4.5 and of problems 2, 4: MS 4.5 and 6, rest ±0.5, 0: MS 0.5.

    Together 4.5 + 5.5 = 10, over 6 values; df = 2 (10 / 4.5)² = 9.88. At 95 % few seeds weigh more than the problems.
    """
    table = [[1, 2], [2, 4], [3, 6]]
    mean, low, high = crossed.interval(table, 0.5)
    half = stats.t.ppf(0.75, 2 * (10 / 4.5) ** 2) * math.sqrt(10 / 6)
    assert (mean, low, high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert crossed.interval(table) == pytest.approx(seeds.t_interval([1.5, 3.0, 4.5]))


@given(TABLES)
def test_without_a_difference_between_problems_it_is_the_interval_over_seeds(table):
    """Then MS of problems and of the rest are both 0."""
    same = np.repeat(table.mean(axis=-1, keepdims=True), table.shape[1], axis=1)
    expected = seeds.t_interval(same[:, 0])
    found = crossed.interval(same)
    if seeds.varies(same[:, 0]):
        assert found == pytest.approx(expected)
    else:
        assert np.isnan([found.low, found.high]).all()


@given(TABLES, st.sampled_from([0.9, 0.95, 0.9875]))
def test_it_is_never_narrower_than_the_interval_over_seeds(table, level):
    _, low, high = crossed.interval(table, level)
    _, inner_low, inner_high = seeds.t_interval(table.mean(axis=-1), level)
    if math.isfinite(low):
        assert low <= inner_low + 1e-9
        assert high >= inner_high - 1e-9


@given(TABLES, st.permutations(range(6)), st.permutations(range(7)))
def test_the_order_of_seeds_and_problems_does_not_matter_and_signs_turn(table, by_seed, by_problem):
    n, m = table.shape
    moved = table[[i for i in by_seed if i < n]][:, [i for i in by_problem if i < m]]
    assert crossed.interval(moved) == pytest.approx(crossed.interval(table), nan_ok=True)
    mean, low, high = crossed.interval(-table)
    assert (-mean, -high, -low) == pytest.approx(crossed.interval(table), nan_ok=True)


def test_many_tables_at_once_are_each_alone():
    tables = np.random.default_rng(0).standard_normal((5, 4, 6))
    together = crossed.interval(tables, 0.9)
    for i, table in enumerate(tables):
        assert [part[i] for part in together] == pytest.approx(list(crossed.interval(table, 0.9)))


@pytest.mark.parametrize("shape", [(1, 5), (4, 1)])
def test_one_seed_or_one_problem_says_nothing(shape):
    _, low, high = crossed.interval(np.arange(np.prod(shape), dtype=float).reshape(shape))
    assert np.isnan([low, high]).all()


# --- of a study -------------------------------------------------------------------------------------------------------

ASKED = [Task(id=str(i), prompt=({"role": "user", "content": f"{i}+1="},), answer=str(i + 1)) for i in range(40)]


def answered(run, rewards, *, part="eval", step=STEPS, tasks=ASKED):
    """Put the answers of an evaluation into a run: one completion a problem."""
    answers = [[Answer(reward=reward, training_reward=None, length=3, truncated=False)] for reward in rewards]
    evaluations.write(run, part, step, tasks[: len(answers)], answers, texts=False)


def campaign(root, scores, table, **options):
    """Write a campaign whose runs answered: table(label, seed) → a reward for each problem; scores are their means."""
    labels = {label: {seed: float(np.mean(table(label, seed))) for seed in seeds_} for label, seeds_ in scores.items()}
    write_campaign(root, labels, **options)
    for label, seeds_ in scores.items():
        for seed in seeds_:
            answered(root / "runs" / f"{label}_s{seed}", table(label, seed))
    return root


def luck(label, seed, *, gain=0.5, solved=10):
    """B gains `gain` on the first `solved` problems only; every seed has some luck of its own."""
    rng = np.random.default_rng([seed, ord(label)])
    base = 0.3 + 0.02 * rng.standard_normal() + 0.1 * rng.standard_normal(40)
    return base + (np.arange(40) < solved) * gain * (label == "b")


def only(verdicts):
    [comparison] = verdicts.comparisons
    return comparison


def test_the_interval_of_a_study_is_that_of_its_table_at_the_level_of_the_family(tmp_path):
    four = range(1, 7)
    root = campaign(tmp_path, {"a": four, "b": four, "c": four}, luck)
    verdicts = compare.judge(compare.load([root]))
    assert (verdicts.problems.count, verdicts.problems.left_out, verdicts.problems.reason) == (40, 0, "")
    d = np.array([luck("b", seed) - luck("a", seed) for seed in four])
    _, low, high = crossed.interval(d, 1 - 0.05 / 2)
    first = verdicts.comparisons[0]
    assert (first.problems_low, first.problems_high) == pytest.approx((low, high))
    assert first.problems_low < first.low < first.high < first.problems_high
    assert compare.document(verdicts)["problems"] == {"count": 40, "left_out": 0, "reason": ""}


def test_a_verdict_that_a_few_problems_make_is_said_not_to_be_sure_on_others(tmp_path):
    both = dict.fromkeys("ab", range(1, 9))
    root = campaign(tmp_path / "few", both, functools.partial(luck, solved=2, gain=0.9))
    few = only(compare.judge(compare.load([root])))
    assert few.verdict == "better"
    assert few.problems_low < 0
    assert "; on other problems like these that is not sure: " in few.sentence
    root = campaign(tmp_path / "all", both, functools.partial(luck, solved=40))
    everywhere = only(compare.judge(compare.load([root])))
    assert everywhere.verdict == "better"
    assert "other problems" not in everywhere.sentence


def test_problems_that_a_run_could_not_score_are_left_out_of_all(tmp_path):
    five = range(1, 6)
    root = campaign(tmp_path, {"a": five, "b": five}, luck)
    answered(root / "runs" / "a_s2", [None, *luck("a", 2)[1:]])
    known = compare.judge(compare.load([root])).problems
    assert (known.count, known.left_out) == (39, 1)
    assert sorted(known.values["b"][3]) == pytest.approx(sorted(luck("b", 3)[1:]))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "evaluations" / f"step-{STEPS}.parquet").unlink(), "1 of 10 runs kept no answers"),
        (lambda run: answered(run, luck("a", 1)[:-1]), "the runs were asked different problems, or in different words"),
        (lambda run: (run / "evaluations" / f"step-{STEPS}.parquet").write_text("x"), "cannot be read"),
        (lambda run: answered(run, [0.5] + [None] * 39), "1 of 40 problems could be scored in all runs"),
    ],
    ids=["missing", "different", "damaged", "unscorable"],
)
def test_where_there_is_no_table_the_reason_is_said_and_the_verdict_stands(tmp_path, spoil, reason):
    five = range(1, 6)
    root = campaign(tmp_path, {"a": five, "b": five}, luck)
    spoil(root / "runs" / "a_s1")
    verdicts = compare.judge(compare.load([root]))
    assert reason in verdicts.problems.reason
    assert math.isnan(only(verdicts).problems_low)
    assert only(verdicts).verdict == "better"


def test_a_metric_that_is_no_mean_over_problems_has_none(tmp_path):
    five = range(1, 6)
    root = campaign(tmp_path, {"a": five, "b": five}, luck)
    found = compare.judge(compare.load([root], "reward/mean")).problems
    assert found.reason == "reward/mean is not a mean over held-out problems"


def test_runs_that_count_at_the_floor_have_no_answers(tmp_path):
    five = range(1, 6)
    root = campaign(tmp_path, {"a": five, "b": five}, luck)
    scores = {label: {seed: float(np.mean(luck(label, seed))) for seed in five} for label in "ab"}
    scores["b"][3] = "failed"  # type: ignore[assignment]  a state
    write_campaign(root, scores)
    verdicts = compare.judge(compare.load([root], floor=True))
    assert verdicts.problems.reason == "runs that failed have no answers, and count at the floor"
