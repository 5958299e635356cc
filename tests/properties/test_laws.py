"""What every transform must keep, whatever its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.signals import surprisal
from retrain.types import Credit
from tests.properties.cases import ONE_OF_EACH, Case, build, choices, close, flat, rows, steps
from tests.properties.reference import Row, Token

every_transform = pytest.mark.parametrize("choice", ONE_OF_EACH, ids=repr)


def apply(choice, case: Case) -> Credit:
    return choice.make()(case.credit, case.ctx)


def outcome(choice, case: Case) -> tuple[list[float], list[float], dict[str, float]]:
    credit = apply(choice, case)
    return case.values(credit.advantages), case.values(credit.uncertainty), case.logged


@given(rows(), choices, steps)
def test_a_transform_equals_the_slow_reference(batch, choice, step):
    """The reference is plain Python written from the formulas: it shares no code and no library with the transform."""
    case = build(batch, step=step)
    credit, expected = apply(choice, case), choice.reference(batch, step)
    assert credit.advantages.dtype == credit.uncertainty.dtype == torch.float64
    assert case.values(credit.advantages) == close(flat(expected, "advantage"))
    assert case.values(credit.uncertainty) == close(flat(expected, "uncertainty"))


@given(rows(), st.lists(choices, min_size=2, max_size=4), steps)
def test_transforms_compose_in_any_order(batch, listed, step):
    """Each reads what the one before it wrote. entropy_mask goes first: after sepa, rounding alone decides its ties."""
    listed = sorted(listed, key=lambda choice: not choice.name.startswith("entropy_mask"))
    case = build(batch, step=step)
    credit, expected = case.credit, batch
    for choice in listed:
        credit, expected = choice.make()(credit, case.ctx), choice.reference(expected, step)
    assert case.values(credit.advantages) == close(flat(expected, "advantage"), rel=1e-6, abs=1e-6)
    assert case.values(credit.uncertainty) == close(flat(expected, "uncertainty"))


@given(rows(), choices, steps, st.sampled_from([math.nan, math.inf, -1e308, 7.0]), st.integers(0, 9))
def test_what_is_not_trained_changes_nothing(batch, choice, step, garbage, width):
    """Padding and environment text have any value and any planning mark, and there may be any amount of padding."""
    plain, dirty = build(batch, step=step), build(batch, step=step, garbage=garbage, width=width)
    for got, expected in zip(outcome(choice, dirty), outcome(choice, plain), strict=True):
        assert got == close(expected, rel=1e-12, abs=1e-12)


@given(rows(), choices, steps, st.randoms())
def test_the_order_of_rows_does_not_matter(batch, choice, step, random):
    """Groups are told apart by their ids, not by their place."""
    order = random.sample(range(len(batch)), len(batch))
    width = max(len(row.tokens) for row in batch)
    straight, moved = build(batch, step=step, width=width), build([batch[i] for i in order], step=step, width=width)
    expected, got = apply(choice, straight), apply(choice, moved)
    assert moved.values(got.advantages) == close(moved.values(expected.advantages[order]))
    assert moved.values(got.uncertainty) == close(moved.values(expected.uncertainty[order]))
    assert moved.logged == close(straight.logged)


@given(rows(), choices, steps, st.integers(0, 2))
def test_a_row_of_zeros_stays_one_where_that_is_declared(batch, choice, step, zeroed):
    """What `keeps_zero_rows` promises: a completion of which every token has advantage 0 costs no backward pass."""
    case = build(
        [
            Row(tuple(Token(0.0, t.uncertainty, t.trained, t.planning) for t in r.tokens), r.group, r.reward)
            if i <= zeroed
            else r
            for i, r in enumerate(batch)
        ],
        step=step,
    )
    transform = choice.make()
    after = transform(case.credit, case.ctx).advantages[: zeroed + 1]
    if transform.keeps_zero_rows:
        assert not after[case.ctx.loss_mask[: zeroed + 1]].any()


@given(rows(), choices, steps)
def test_a_transform_changes_none_of_its_inputs(batch, choice, step):
    """A pipeline may show the credit before and after, and two transforms may read one tensor."""
    case, untouched = build(batch, step=step), build(batch, step=step)
    apply(choice, case)
    for field in ("advantages", "uncertainty"):
        assert torch.equal(getattr(case.credit, field), getattr(untouched.credit, field))
    assert torch.equal(case.ctx.loss_mask, untouched.ctx.loss_mask)
    assert torch.equal(case.ctx.planning_mask, untouched.ctx.planning_mask)


@given(rows(), choices, steps, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_narrow_number_formats_are_converted_before_anything_is_computed(batch, choice, step, dtype):
    """The credit of a narrow batch is that of a float64 batch of the same rounded numbers: nothing rounds twice."""
    narrow = build(batch, step=step, dtype=dtype)
    rounded = (-narrow.ctx.batch.sampling_logprobs).tolist()
    wide = build(
        [
            Row(
                tuple(Token(t.advantage, h, t.trained, t.planning) for t, h in zip(r.tokens, hs, strict=False)),
                r.group,
                r.reward,
            )
            for r, hs in zip(batch, rounded, strict=True)
        ],
        step=step,
    )
    signal = surprisal(narrow.ctx.batch)
    assert signal.dtype == torch.float64
    narrow = Case(narrow.credit.replace(uncertainty=signal), narrow.ctx, narrow.logged)
    for got, expected in zip(outcome(choice, narrow), outcome(choice, wide), strict=True):
        assert got == close(expected, rel=1e-12, abs=1e-12)


@every_transform
@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_batch_without_trained_tokens_is_no_special_case(choice, length):
    """All rows masked, as when every completion was cut and `mask_truncated` is on: nothing fails, nothing is NaN."""
    row = Row((Token(1.0, 1.0, trained=False),) * length)
    case = build([row, row, Row(row.tokens, group=1, reward=None)])
    credit = apply(choice, case)
    assert credit.advantages.isfinite().all()
    assert credit.uncertainty.isfinite().all()
    assert all(math.isfinite(value) for value in case.logged.values())


@every_transform
def test_one_token_alone_keeps_its_sign_or_becomes_zero(choice):
    """One token is its own mean, its own largest and its own batch: gtpo weighs it 1, whiten makes it 0."""
    for advantage in (2.0, -2.0, 0.0):
        case = build([Row((Token(advantage, 0.7),))], step=4)
        after = apply(choice, case)
        assert after.advantages.item() * advantage >= 0
        assert after.uncertainty.item() == pytest.approx(0.7)
