"""Entropy mask: exactly the prescribed share of each group's tokens stays."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from retrain.advantages.entropy_mask import EntropyMask, kth_largest
from retrain.config import schema
from tests.properties.cases import build, rows
from tests.properties.reference import Row, Token

shares = st.one_of(st.sampled_from([0.2, 0.29, 0.57, 1.0]), st.integers(1, 1000).map(lambda n: n / 1000))


def after(batch, rho):
    case = build(batch)
    return EntropyMask(schema.EntropyMask(rho=rho))(case.credit, case.ctx).advantages, case


def completion(group, *uncertainty):
    return Row(tuple(Token(1.0, h) for h in uncertainty), group=group)


def prescribed(count: int, rho: float) -> int:
    """k = max(1, ⌊N·ρ⌋) in exact arithmetic, ρ being the decimal that was written."""
    return max(1, math.floor(count * Fraction(str(rho))))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=1, max_size=6), shares, st.randoms())
def test_exactly_the_prescribed_share_stays_when_no_two_tokens_tie(lengths, rho, random):
    """k of N distinct numbers are at least as large as the k-th largest."""
    distinct = iter(random.sample(range(100), 100))
    batch = [completion(group, *(next(distinct) / 8 for _ in range(length))) for group, length in lengths]
    advantages, _ = after(batch, rho)
    for group in {row.group for row in batch}:
        members = [i for i, row in enumerate(batch) if row.group == group]
        count = sum(len(batch[i].tokens) for i in members)
        assert int(advantages[members].sum()) == (prescribed(count, rho) if count else 0)


@given(rows(), shares)
def test_tokens_that_tie_with_the_last_one_stay_too(batch, rho):
    """At least k stay; and without the ties of the threshold fewer than k."""
    batch = [Row(tuple(Token(1.0, t.uncertainty, t.trained) for t in row.tokens), row.group) for row in batch]
    advantages, case = after(batch, rho)
    for group in {row.group for row in batch}:
        mine = case.ctx.loss_mask & (case.ctx.batch.group_ids == group)[:, None]
        kept = case.credit.uncertainty[mine & (advantages == 1)]
        k = prescribed(int(mine.sum()), rho)
        assert len(kept) >= min(k, int(mine.sum()))
        assert int((kept > kept.min()).sum()) < k if len(kept) else not mine.any()


def test_each_group_has_its_own_threshold():
    """ρ = 0.5 of four tokens: the two largest of each group, though group 1 is more certain than group 0 throughout."""
    batch = [completion(0, 9.0, 5.0), completion(1, 0.1, 0.4), completion(0, 6.0, 7.0), completion(1, 0.3, 0.2)]
    assert after(batch, 0.5)[0].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]


def test_one_token_of_a_group_stays_however_small_the_share():
    advantages, case = after([completion(0, 1.0, 3.0, 2.0)], 0.001)
    assert advantages.tolist() == [[0.0, 1.0, 0.0]]
    assert case.logged == {"entropy_mask/kept_share": pytest.approx(1 / 3)}


@given(rows())
def test_the_whole_share_is_the_identity(batch):
    advantages, case = after(batch, 1.0)
    assert case.values(advantages) == case.values(case.credit.advantages)


@given(rows(), shares, st.sampled_from([-3.0, 0.5, 1e6]))
def test_advantages_times_a_factor_become_as_much_larger(batch, rho, factor):
    """Which tokens stay does not depend on the advantages."""
    case, transform = build(batch), EntropyMask(schema.EntropyMask(rho=rho))
    scaled = case.credit.replace(advantages=factor * case.credit.advantages)
    assert torch.equal(transform(scaled, case.ctx).advantages, factor * transform(case.credit, case.ctx).advantages)


@given(st.integers(1, 20_000), st.integers(1, 10_000).map(lambda n: n / 10_000))
@example(5, 0.2)  # 1.0 in binary too
@example(100, 0.29)  # 28.999999999999996 in binary
@example(100, 0.57)  # 56.99999999999999
@example(19_997, 0.6667)  # 13331.9999: 13332 in float32
@example(1000, 0.001)
@example(2_000_000, 0.2)
def test_the_share_is_the_decimal_that_was_written(count, rho):
    """N·ρ with ρ of four decimals is a multiple of 1e-4, so a relative 1e-12 lifts only what rounding had lowered."""
    threshold = kth_largest(torch.arange(count).double(), torch.zeros(count, dtype=torch.long), 1, rho)
    assert int(threshold) == count - prescribed(count, rho)


def test_a_group_without_tokens_has_no_threshold():
    assert kth_largest(torch.tensor([1.0, 2.0]), torch.tensor([2, 2]), 4, 0.5).tolist() == [
        math.inf,
        math.inf,
        2.0,
        math.inf,
    ]
