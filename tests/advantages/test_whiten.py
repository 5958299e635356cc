"""Whiten: mean 0 and deviation 1 over the batch's tokens, by mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.whiten import Whiten
from retrain.config import schema
from tests.properties.cases import build, close, rows
from tests.properties.reference import Row, Token

scored_rows = rows(reward=st.just(1.0))


def after(batch):
    case = build(batch)
    return Whiten(schema.Whiten())(case.credit, case.ctx).advantages, case


def test_zeros_are_tokens_like_any_other():
    """(3, 0, 0, 1) has mean 1 and variance (4 + 1 + 1 + 0)/4 = 1.5: what was 0 is below the mean now."""
    batch = [Row((Token(3.0, 1.0), Token(0.0, 1.0))), Row((Token(0.0, 1.0), Token(1.0, 1.0)))]
    deviation = 1.5**0.5
    assert after(batch)[0].flatten().tolist() == pytest.approx([2 / deviation, -1 / deviation, -1 / deviation, 0.0])


@given(scored_rows)
def test_the_batch_has_mean_zero_and_deviation_one(batch):
    """The deviation becomes s/(s + 1e-8), and s is at least 1e-4 here unless all tokens are equal: then all are 0."""
    advantages, case = after(batch)
    values, given_ = advantages[case.ctx.loss_mask], case.credit.advantages[case.ctx.loss_mask]
    if len(given_.unique()) > 1:
        assert values.mean().item() == pytest.approx(0, abs=1e-9)
        assert values.std(correction=0).item() == pytest.approx(1, rel=1e-3)
    else:
        assert not values.any()


@pytest.mark.parametrize("advantage", [0.1, -1 / 3, 1e6 / 7, 1e300])
@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_equal_advantages_become_exactly_zero(advantage, count):
    """However large: the mean of seven times 1e6/7 is not 1e6/7 in float64, and 1e-8 would not hide the difference."""
    advantages, _ = after([Row((Token(advantage, 1.0),) * count)])
    assert not advantages.any()


@given(scored_rows, st.floats(1e-2, 1e3))
def test_a_positive_factor_on_the_advantages_changes_nothing(batch, factor):
    """(cA − cm)/(cs + ε) = (A − m)/(s + ε/c): the same up to ε/s, and s is at least 1e-4 or the result 0."""
    case, whiten = build(batch), Whiten(schema.Whiten())
    scaled = case.credit.replace(advantages=factor * case.credit.advantages)
    once = case.values(whiten(case.credit, case.ctx).advantages)
    assert case.values(whiten(scaled, case.ctx).advantages) == close(once, rel=0.02, abs=1e-9)


@given(scored_rows, st.floats(-100, 100))
def test_a_shift_of_all_advantages_changes_nothing(batch, shift):
    case, whiten = build(batch), Whiten(schema.Whiten())
    shifted = case.credit.replace(advantages=case.credit.advantages + shift)
    once = case.values(whiten(case.credit, case.ctx).advantages)
    assert case.values(whiten(shifted, case.ctx).advantages) == close(once, rel=1e-6, abs=1e-6)


def test_a_completion_that_could_not_be_scored_stays_at_zero_and_counts_for_nobody():
    scored = [Row((Token(1.0, 1.0),)), Row((Token(-1.0, 1.0),))]
    advantages, _ = after([*scored, Row((Token(0.0, 1.0),) * 3, reward=None)])
    assert advantages.tolist() == [[pytest.approx(1.0), 0.0, 0.0], [pytest.approx(-1.0), 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_zero_rows_do_not_stay_and_that_is_declared():
    assert not Whiten.keeps_zero_rows
    assert after([Row((Token(0.0, 1.0),)), Row((Token(1.0, 1.0),))])[0][0].item() == pytest.approx(-1)


def test_the_credit_it_was_given_stays_as_it_was():
    case = build([Row((Token(1.0, 1.0), Token(2.0, 1.0)))])
    before = case.credit.advantages.clone()
    Whiten(schema.Whiten())(case.credit, case.ctx)
    assert torch.equal(case.credit.advantages, before)
