"""GTPO: the worked numbers, the mean it keeps, and when it keeps out of the way."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from retrain.advantages.gtpo import Gtpo
from retrain.config import schema
from tests.properties.cases import build, close, rows
from tests.properties.reference import Row, Token


def completion(advantage, *uncertainty):
    return Row(tuple(Token(advantage, h) for h in uncertainty))


def after(batch, beta):
    case = build(batch)
    credit = Gtpo(schema.Gtpo(beta=beta))(case.credit, case.ctx)
    return credit.advantages, case


def test_a_token_twice_as_uncertain_as_the_mean_gets_one_plus_beta():
    """H = (0, 1, 2): mean 1, so w = 1 + β·(−1, 0, 1), up to the 1e-8 beside the mean."""
    advantages, _ = after([completion(2.0, 0.0, 1.0, 2.0)], beta=0.5)
    assert advantages[0].tolist() == pytest.approx([1.0, 2.0, 3.0], abs=1e-7)


@given(rows(), st.floats(0, 1))
def test_the_mean_advantage_stays_for_beta_up_to_one(batch, beta):
    """Σ_t w_t = n + β·(Σ_t H_t/(μ + ε) − n) = n·(1 − β·ε/(μ + ε)), for H_t ≥ 0 and β ≤ 1 make every w_t ≥ 0: no clamp.

    With an advantage A on every token the mean is therefore A·(1 − β·ε/(μ + ε)): A, but for ε = 1e-8.
    """
    batch = [completion(1.5, *(token.uncertainty for token in row.trained)) for row in batch]
    advantages, case = after(batch, beta)
    assert case.logged["gtpo/clamped_share"] == 0
    for row, values in zip(batch, advantages, strict=True):
        if row.trained:
            mu = sum(token.uncertainty for token in row.trained) / len(row.trained)
            kept = 1 - beta * 1e-8 / (mu + 1e-8) if mu >= 1e-7 else 1.0
            assert values.sum().item() / len(row.trained) == pytest.approx(1.5 * kept, rel=1e-9)
            assert kept == pytest.approx(1, abs=1e-4)  # the smallest mean drawn is 1e-3 / 6


@given(rows(), st.floats(0, 3), st.sampled_from([-2.0, 0.5, 4.0]))
def test_advantages_times_a_factor_become_as_much_larger(batch, beta, factor):
    """A_t·w_t, and w_t does not depend on A. The factors are powers of two: not even rounding differs."""
    case = build(batch)
    gtpo = Gtpo(schema.Gtpo(beta=beta))
    scaled = case.credit.replace(advantages=factor * case.credit.advantages)
    once = case.values(gtpo(case.credit, case.ctx).advantages)
    assert case.values(gtpo(scaled, case.ctx).advantages) == [factor * a for a in once]


@given(rows(), st.floats(0, 3), st.floats(0.5, 20))
def test_the_unit_of_the_uncertainty_does_not_matter(batch, beta, factor):
    """Nats or bits: H and μ scale alike, up to the 1e-8 beside μ, which a mean of 1e-3/6 or more makes small."""
    case, gtpo = build(batch), Gtpo(schema.Gtpo(beta=beta))
    scaled = case.credit.replace(uncertainty=factor * case.credit.uncertainty)
    once = case.values(gtpo(case.credit, case.ctx).advantages)
    assert case.values(gtpo(scaled, case.ctx).advantages) == close(once, rel=1e-2, abs=1e-2)


@given(rows())
def test_beta_zero_is_the_identity(batch):
    advantages, case = after(batch, beta=0.0)
    assert case.values(advantages) == case.values(case.credit.advantages)


@given(rows(), st.floats(0, 5))
def test_no_weight_is_negative(batch, beta):
    """Signs stay or become 0: a good completion is never punished for a certain token, whatever β is."""
    advantages, case = after(batch, beta)
    assert all(a * b >= 0 for a, b in zip(case.values(advantages), case.values(case.credit.advantages), strict=True))


def test_a_completion_that_was_sampled_greedily_keeps_its_advantage():
    """Mean 0.9e-7, below the threshold of 1e-7; and 1.2e-7, above it, where w = 1 + β·(H/(μ + 1e-8) − 1)."""
    advantages, _ = after([completion(1.0, 0.0, 1.8e-7), completion(1.0, 0.0, 2.4e-7)], beta=1.0)
    assert advantages[0].tolist() == [1.0, 1.0]
    assert advantages[1].tolist() == pytest.approx([0.0, 2.4e-7 / 1.3e-7])


def test_the_clamped_share_counts_trained_tokens_of_the_batch():
    """β = 2, H = (0, 1, 2) → w = (−1, 1, 3): one of three. The other row is even, and untrained zeros do not count."""
    untrained = Token(1.0, 0.0, trained=False)
    uneven, even = completion(1.0, 0.0, 1.0, 2.0), completion(1.0, 1.0, 1.0, 1.0)
    advantages, case = after([Row((*uneven.tokens, untrained)), even, Row((untrained,))], beta=2.0)
    assert advantages[0, :3].tolist() == pytest.approx([0.0, 1.0, 3.0], abs=1e-7)
    assert case.logged == {"gtpo/clamped_share": pytest.approx(1 / 6)}


@given(rows())
def test_a_token_that_is_more_uncertain_gets_no_less(batch):
    """w_t grows with H_t for β ≥ 0."""
    for row in batch:
        assume(row.trained)
        advantages, _ = after([completion(1.0, *sorted(token.uncertainty for token in row.trained))], beta=0.7)
        assert (advantages[0].diff() >= 0).all()
