"""Clip: the bound holds, and what is inside it stays exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.clip import Clip
from retrain.config import schema
from tests.properties.cases import build, rows
from tests.properties.reference import Row, Token


def after(batch, most):
    case = build(batch)
    return Clip(schema.Clip(max=most))(case.credit, case.ctx).advantages, case


@given(rows(), st.floats(1e-3, 12))
def test_no_advantage_is_larger_and_those_inside_stay_exactly(batch, most):
    advantages, case = after(batch, most)
    inside = case.credit.advantages.abs() <= most
    assert (advantages.abs() <= most).all()
    assert torch.equal(advantages[inside], case.credit.advantages[inside])
    assert torch.equal(advantages[~inside], most * case.credit.advantages[~inside].sign())


@given(rows(), st.floats(1e-3, 12))
def test_clipping_twice_is_clipping_once(batch, most):
    case, clip = build(batch), Clip(schema.Clip(max=most))
    once = clip(case.credit, case.ctx)
    assert torch.equal(clip(once, case.ctx).advantages, once.advantages)


@given(rows())
def test_zero_is_off(batch):
    advantages, case = after(batch, 0.0)
    assert torch.equal(advantages, case.credit.advantages)
    assert case.logged == {}


def test_the_clipped_share_counts_trained_tokens():
    """3 and −3 of four trained tokens are outside of 2; 2 itself is not; the untrained 9 does not count."""
    row = Row((Token(3.0, 1.0), Token(-3.0, 1.0), Token(2.0, 1.0), Token(0.0, 1.0), Token(9.0, 1.0, trained=False)))
    advantages, case = after([row], 2.0)
    assert case.values(advantages) == [2.0, -2.0, 2.0, 0.0]
    assert case.logged == {"clip/clipped_share": pytest.approx(0.5)}
