"""HICRA: planning tokens gain, nothing else moves, and below α = 1 no sign turns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.hicra import Hicra
from retrain.config import schema
from tests.properties.cases import build, rows
from tests.properties.reference import Row, Token


def after(batch, alpha):
    case = build(batch)
    credit = Hicra(schema.Hicra(alpha=alpha))(case.credit, case.ctx)
    assert credit.uncertainty is case.credit.uncertainty
    return credit.advantages, case


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [1.0, 2.0, -2.0, -2.0]),
        (0.25, [1.0, 2.5, -1.5, -2.0]),
        (1.0, [1.0, 4.0, 0.0, -2.0]),
        (2.0, [1.0, 6.0, 2.0, -2.0]),
    ],
)
def test_planning_tokens_gain_alpha_times_the_size_of_their_advantage(alpha, expected):
    """α = 1 cancels a punishment, α > 1 turns it into a reward: allowed, and computed as the formula says."""
    row = Row((Token(1.0, 1.0), Token(2.0, 1.0, planning=True), Token(-2.0, 1.0, planning=True), Token(-2.0, 1.0)))
    assert after([row], alpha)[0].tolist() == [expected]


@given(rows(), st.floats(0, 1, exclude_max=True))
def test_every_sign_stays_for_alpha_below_one(batch, alpha):
    """A + α|A| = A·(1 + α·sign A), and 1 ± α > 0."""
    advantages, case = after(batch, alpha)
    for got, given_ in zip(case.values(advantages), case.values(case.credit.advantages), strict=True):
        assert math.copysign(bool(got), got) == math.copysign(bool(given_), given_)


@given(rows(), st.floats(0, 3))
def test_no_token_loses_and_execution_tokens_stay_exactly(batch, alpha):
    advantages, case = after(batch, alpha)
    assert (advantages >= case.credit.advantages).all()
    execution = ~case.ctx.planning_mask
    assert torch.equal(advantages[execution], case.credit.advantages[execution])


@given(rows(), st.floats(0, 3), st.sampled_from([0.25, 2.0, 64.0]))
def test_advantages_times_a_positive_factor_become_as_much_larger(batch, alpha, factor):
    """cA + α|cA| = c·(A + α|A|) for c > 0. (Not for c < 0: planning tokens gain on both sides of zero.)"""
    case, hicra = build(batch), Hicra(schema.Hicra(alpha=alpha))
    scaled = case.credit.replace(advantages=factor * case.credit.advantages)
    assert torch.equal(hicra(scaled, case.ctx).advantages, factor * hicra(case.credit, case.ctx).advantages)


def test_it_asks_for_the_planning_mask():
    assert Hicra.requires == {"planning_mask"}
