"""The numbers of an evaluation: unbiased estimators, honest errors, and a hand count."""

import itertools
import math
from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest

from retrain.config.logged import passes
from retrain.evaluate import measure, standard_error
from retrain.evaluations import Answer, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (10, 3, 1, 3 / 10),
        (5, 2, 2, 1 - (3 * 2) / (5 * 4)),  # two draws without putting back, both wrong
        (4, 4, 3, 1.0),
        (4, 0, 4, 0.0),
        (200, 1, 100, 1 / 2),
        (6, 5, 2, 1.0),  # two draws cannot both miss
    ],
)
def test_pass_at_k_gives_the_textbook_values(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(4, 1), (4, 2), (5, 3), (5, 5)])
def test_pass_at_k_is_unbiased(n, k):
    """Over all 2^n outcomes of n completions right with chance p, its expectation is 1 - (1-p)^k: exactly."""
    p = Fraction(3, 10)
    expectation = Fraction(0)
    for outcome in itertools.product((0, 1), repeat=n):
        chance = math.prod((p if right else 1 - p) for right in outcome)
        expectation += chance * Fraction(pass_at_k(n, sum(outcome), k)).limit_denominator(10_000)
    assert expectation == 1 - (1 - p) ** k


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one():
    for n, c in itertools.product(range(1, 7), range(7)):
        for k in range(1, n + 1):
            if c <= n:
                drawn = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn))


def test_passes_are_powers_of_two_and_the_number_of_samples():
    assert [passes(n) for n in (1, 2, 3, 4, 6, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_standard_error_is_that_of_a_bootstrap_over_tasks():
    """Resampling N tasks, the mean has the variance Σ(v-m)²/N², which is (N-1)/N of the unbiased one."""
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 0.5, size=40)
    means = rng.choice(values, size=(200_000, 40)).mean(axis=1)
    assert standard_error(values.tolist()) * math.sqrt(39 / 40) == pytest.approx(means.std(), rel=0.01)


def test_the_standard_error_covers_new_tasks_and_new_completions():
    """Tasks with chances of their own, 4 completions each: the spread of the score over 4000 evaluations is its se."""
    rng = np.random.default_rng(1)
    chances = rng.beta(1, 2, size=(4000, 50, 1))
    scores = (rng.random((4000, 50, 4)) < chances).mean(axis=2)
    errors = [standard_error(row) for row in scores[:500].tolist()]
    assert fmean(errors) == pytest.approx(scores.mean(axis=1).std(), rel=0.03)
    flat = math.sqrt(scores.mean() * (1 - scores.mean()) / 200)  # as if 200 completions were independent
    assert flat < 0.8 * fmean(errors)


def answer(reward, *, training=None, length=3, truncated=False):
    return Answer(reward=reward, training_reward=training, length=length, truncated=truncated)


def test_what_is_measured_matches_a_hand_count():
    groups = [
        [answer(1.0), answer(0.0, length=7, truncated=True)],
        [answer(0.8), answer(None)],  # one completion left
        [answer(None), answer(None)],  # says nothing
        [answer(0.2), answer(0.4)],
    ]
    found = measure(groups, 2)
    means = [0.5, 0.8, 0.3]
    assert found["score"] == pytest.approx(fmean(means))
    assert found["score_se"] == pytest.approx(np.std(means, ddof=1) / 3**0.5)
    assert found["pass_at_1"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["pass_at_2"] == pytest.approx((1 + 0) / 2)  # the second task has only one that counts
    assert found["length_mean"] == pytest.approx((7 * 3 + 7) / 8)
    assert found["truncated_rate"] == pytest.approx(1 / 8)
    assert found["unscorable"] == pytest.approx(3 / 8)
    assert "reward" not in found


def test_what_cannot_be_measured_is_left_out():
    assert set(measure([[answer(None)]], 1)) == {"length_mean", "truncated_rate", "unscorable"}
    assert "score_se" not in measure([[answer(1.0)]], 1)


def test_the_training_reward_is_measured_beside_a_stricter_one():
    found = measure([[answer(0.0, training=1.0)], [answer(1.0, training=1.0)]], 1, two_rewards=True)
    assert (found["score"], found["reward"]) == (0.5, 1.0)
