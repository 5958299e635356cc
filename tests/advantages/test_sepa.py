"""SEPA at a fixed strength: what it evens out, what it leaves, and that gtpo reads the result."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.gtpo import Gtpo
from retrain.advantages.sepa import Sepa
from retrain.config import schema
from tests.properties.cases import SEPA_STEPS, build, close, rows, steps
from tests.properties.reference import Row, Token


def after(batch, step):
    """Apply with λ = step / 8."""
    case = build(batch, step=step)
    transform = Sepa(schema.Sepa(steps=SEPA_STEPS, delay_steps=0, correct_rate_gate=0.0))
    credit = transform(case.credit, case.ctx)
    assert credit.advantages is case.credit.advantages
    assert case.logged["sepa/lambda"] == step / SEPA_STEPS
    return credit, case


def execution(case):
    return case.ctx.loss_mask & ~case.ctx.planning_mask


def test_half_the_strength_goes_half_the_way_to_the_mean_of_execution_tokens():
    """Execution tokens 1 and 3 have the mean 2; the planning token's 10 counts for nothing and stays."""
    row = Row((Token(0.5, 1.0), Token(0.5, 10.0, planning=True), Token(0.5, 3.0)))
    credit, case = after([row], step=4)
    assert credit.uncertainty.tolist() == [[1.5, 10.0, 2.5]]
    assert case.logged["sepa/execution_variance"] == pytest.approx(1.0)


@given(rows())
def test_strength_zero_is_the_identity(batch):
    """0·mean + 1·H = H, to the last bit."""
    credit, case = after(batch, step=0)
    assert case.values(credit.uncertainty) == case.values(case.credit.uncertainty)


@given(rows())
def test_full_strength_makes_the_uncertainty_of_execution_tokens_constant(batch):
    """1·mean + 0·H = mean for every execution token of a completion, so their variance is 0."""
    credit, case = after(batch, step=SEPA_STEPS)
    for values, mask in zip(credit.uncertainty, execution(case), strict=True):
        assert len(values[mask].unique()) <= 1


@given(rows(), steps)
def test_planning_tokens_stay_exactly(batch, step):
    credit, case = after(batch, step)
    planning = case.ctx.loss_mask & case.ctx.planning_mask
    assert torch.equal(credit.uncertainty[planning], case.credit.uncertainty[planning])


@given(rows(), steps)
def test_the_mean_uncertainty_of_a_completion_stays_and_the_variance_shrinks(batch, step):
    """mean(λm + (1−λ)H) = m; and H' − m = (1−λ)(H − m), so the variance is (1−λ)² of what it was."""
    credit, case = after(batch, step)
    kept = (1 - step / SEPA_STEPS) ** 2
    for new, old, mask in zip(credit.uncertainty, case.credit.uncertainty, execution(case), strict=True):
        if mask.any():
            assert new[mask].mean().item() == pytest.approx(old[mask].mean().item(), rel=1e-9, abs=1e-9)
            expected = kept * old[mask].var(correction=0).item()
            assert new[mask].var(correction=0).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(rows(st.builds(Token, advantage=st.just(1.0), uncertainty=st.integers(1, 9).map(float))), st.floats(0, 3))
def test_without_planning_tokens_full_strength_cancels_gtpo(batch, beta):
    """Equal uncertainties are their own mean: w = 1 + β·(H/(H + 1e-8) − 1), which is 1 − β·1e-8 or more for H ≥ 1."""
    credit, case = after(batch, step=SEPA_STEPS)
    weighed = Gtpo(schema.Gtpo(beta=beta))(credit, case.ctx)
    assert case.values(weighed.advantages) == close(case.values(credit.advantages), rel=1e-7)


def test_the_variance_is_left_out_of_the_metrics_when_there_is_none():
    """A completion of planning tokens alone, and one without trained tokens."""
    row = Row((Token(1.0, 2.0, planning=True), Token(1.0, 3.0, trained=False)))
    credit, case = after([row, Row(())], step=3)
    assert "sepa/execution_variance" not in case.logged
    assert case.values(credit.uncertainty) == [2.0]


def test_it_asks_for_the_planning_mask():
    assert Sepa.requires == {"planning_mask"}
