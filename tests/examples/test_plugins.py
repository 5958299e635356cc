"""The example plugins, found as a run finds them, against slow references written from their formulas."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain import registry
from retrain.advantages import baselines, pipeline
from retrain.advantages.baselines import Grpo, MaxRl
from retrain.config.schema import Algorithm, RunConfig
from retrain.errors import ConfigError
from tests.properties.cases import build, close, flat, rows
from tests.properties.reference import Row, Token, each_token

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
STRENGTHS = st.sampled_from([0.0, 0.25, 1.0, 3.0])


@cache
def plugin(kind, name):
    return registry.resolve(kind, name, places=[PLUGINS])


def completion(*uncertainties, advantage=1.0, planning=()):
    return Row(tuple(Token(advantage, h, planning=i in planning) for i, h in enumerate(uncertainties)))


def logistic(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


# --- sepa_amp -------------------------------------------------------------------------------------------------------


def amplified(batch, strength, *, clamp):
    """(1 + λ)·H − λ·mean(H_exec), token by token."""

    def token_of(row, token):
        if token.planning:
            return token
        value = (1 + strength) * token.uncertainty - strength * fmean(row.execution)
        return replace(token, uncertainty=max(0.0, value) if clamp else value)

    return [each_token(row, lambda token, row=row: token_of(row, token)) for row in batch]


@given(rows(), STRENGTHS, st.booleans())
def test_sepa_amp_is_its_formula(batch, strength, clamp):
    case = build(batch)
    after = plugin("transform", "sepa_amp:SepaAmp")(strength=strength, clamp=clamp)(case.credit, case.ctx)
    assert case.values(after.uncertainty) == close(flat(amplified(batch, strength, clamp=clamp), "uncertainty"))
    assert case.values(after.advantages) == flat(batch, "advantage")


@given(rows(), STRENGTHS)
def test_sepa_amp_without_the_clamp_keeps_the_mean_of_execution_tokens(batch, strength):
    """mean((1 + λ)·H − λ·m) = (1 + λ)·m − λ·m = m."""
    case = build(batch)
    after = plugin("transform", "sepa_amp:SepaAmp")(strength=strength, clamp=False)(case.credit, case.ctx)
    for row, values, mask, planning in zip(
        batch, after.uncertainty, case.ctx.loss_mask, case.ctx.planning_mask, strict=True
    ):
        if row.execution:
            assert values[mask & ~planning].mean().item() == pytest.approx(fmean(row.execution), abs=1e-9)


def test_sepa_amp_changes_neither_planning_tokens_nor_a_lone_execution_token():
    case = build([completion(1.0, 5.0, 3.0, planning=(1, 2)), completion(4.0)])
    after = plugin("transform", "sepa_amp:SepaAmp")(strength=2.0)(case.credit, case.ctx)
    assert after.uncertainty.tolist() == [[1.0, 5.0, 3.0], [4.0, 0.0, 0.0]]


def test_sepa_amp_reports_the_share_of_clamped_execution_tokens():
    """Mean 2 of (0, 2, 4): with λ = 1 they become −2, 2, 6."""
    case = build([completion(0.0, 2.0, 4.0)])
    after = plugin("transform", "sepa_amp:SepaAmp")(strength=1.0)(case.credit, case.ctx)
    assert after.uncertainty.tolist() == [[0.0, 2.0, 6.0]]
    assert case.logged == {"sepa_amp/clamped_share": pytest.approx(1 / 3)}


# --- delight --------------------------------------------------------------------------------------------------------


def gated(batch, eta):
    """A·σ(A·ŝ/η), token by token."""

    def gate(row):
        mean = fmean(token.uncertainty for token in row.trained) if row.trained else 0.0

        def token_of(token):
            relative = token.uncertainty / mean if mean >= 1e-7 else 1.0
            return replace(token, advantage=token.advantage * logistic(token.advantage * relative / eta))

        return each_token(row, token_of)

    return [gate(row) for row in batch]


@given(rows(), st.sampled_from([0.1, 1.0, 7.0]))
def test_delight_is_its_formula(batch, eta):
    case = build(batch)  # its log-probabilities are minus the uncertainties
    after = plugin("transform", "delight:Delight")(eta=eta)(case.credit, case.ctx)
    assert case.values(after.advantages) == close(flat(gated(batch, eta), "advantage"))
    assert case.values(after.uncertainty) == flat(batch, "uncertainty")


@given(rows(), st.sampled_from([0.1, 1.0, 7.0]))
def test_delight_keeps_half_to_all_of_a_success_and_none_to_half_of_a_failure(batch, eta):
    """σ(x) lies in [1/2, 1] for x ≥ 0 and in [0, 1/2] for x ≤ 0; A·ŝ/η has the sign of A."""
    case = build(batch)
    after = plugin("transform", "delight:Delight")(eta=eta)(case.credit, case.ctx)
    for before, value in zip(flat(batch, "advantage"), case.values(after.advantages), strict=True):
        low, high = (0.5 * before, before) if before >= 0 else (0.5 * before, 0.0)
        assert low <= value <= high


def test_delight_reads_the_surprisal_whatever_the_uncertainty_is():
    case = build([completion(1.0, 3.0)])
    delight = plugin("transform", "delight:Delight")()
    other = case.credit.replace(uncertainty=torch.full_like(case.credit.uncertainty, 9.0))
    assert torch.equal(delight(other, case.ctx).advantages, delight(case.credit, case.ctx).advantages)


# --- both transforms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sepa_amp:SepaAmp", "delight:Delight"])
@given(rows())
def test_what_is_not_trained_changes_nothing(name, batch):
    plain, other = build(batch), build(batch, width=9, garbage=7.0)
    for case in (plain, other):
        after = plugin("transform", name)()(case.credit, case.ctx)
        case.logged["values"] = [case.values(after.advantages), case.values(after.uncertainty)]
    assert plain.logged.keys() == other.logged.keys()
    for key in plain.logged.keys() - {"values"}:
        assert plain.logged[key] == pytest.approx(other.logged[key], abs=1e-12)
    for values, expected in zip(other.logged["values"], plain.logged["values"], strict=True):
        assert values == close(expected)


# --- maxrl_floor ----------------------------------------------------------------------------------------------------

GROUPS = st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.25, None]), min_size=1, max_size=6), min_size=1, max_size=4)


def tensors(groups):
    flattened = [math.nan if reward is None else reward for group in groups for reward in group]
    return torch.tensor(flattened, dtype=torch.float64), torch.tensor([i for i, g in enumerate(groups) for _ in g])


def floored(groups, floor):
    """(r − m) / max(m, floor), reward by reward."""
    values = []
    for group in groups:
        scored = [reward for reward in group if reward is not None]
        mean, told = (fmean(scored), max(scored) - min(scored) > 1e-6) if scored else (0.0, False)
        values += [0.0 if r is None or not told else (r - mean) / max(mean, floor) for r in group]
    return values


@given(GROUPS, st.sampled_from([0.01, 0.1, 0.5, 2.0]))
def test_maxrl_floor_is_its_formula(groups, floor):
    after = plugin("baseline", "maxrl_floor:MaxRlFloor")(floor=floor)(*tensors(groups))
    assert after.tolist() == close(floored(groups, floor), abs=1e-12)


def test_maxrl_floor_lies_between_maxrl_and_grpo():
    """Means 1/2 and 1/8: the first is above the floor of 1/4, the second below."""
    rewards, ids = tensors([[1.0, 0.0], [1.0] + [0.0] * 7])
    after = plugin("baseline", "maxrl_floor:MaxRlFloor")(floor=0.25)(rewards, ids)
    assert after[:2].tolist() == pytest.approx(MaxRl()(rewards, ids)[:2].tolist(), rel=1e-5)
    assert after[2:].tolist() == pytest.approx((Grpo()(rewards, ids)[2:] / 0.25).tolist())


# --- rank_signal ----------------------------------------------------------------------------------------------------


@given(rows())
def test_the_rank_signal_counts_smaller_and_half_the_equal_ones(batch):
    case = build(batch)
    expected = [
        (
            sum(o.uncertainty < t.uncertainty for o in row.trained)
            + sum(o.uncertainty == t.uncertainty for o in row.trained) / 2
        )
        / len(row.trained)
        for row in batch
        for t in row.trained
    ]
    assert case.values(plugin("signal", "rank_signal:rank")(case.ctx.batch)) == close(expected)


@given(rows())
def test_ranks_have_mean_one_half_and_are_zero_outside_the_mask(batch):
    """A pair of tokens gives 1 to its larger one, or 1/2 to both, and each token 1/2 to itself: n²/2 shares of 1/n."""
    case = build(batch, width=9, garbage=3.0)
    ranks = plugin("signal", "rank_signal:rank")(case.ctx.batch)
    assert ranks.dtype == torch.float64
    assert ranks[~case.ctx.loss_mask].count_nonzero() == 0
    for row, values in zip(batch, ranks, strict=True):
        assert values.sum().item() == pytest.approx(len(row.trained) / 2)


# --- as a run makes them --------------------------------------------------------------------------------------------


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


def pipeline_of(**algorithm):
    return pipeline.build(RunConfig(algorithm=Algorithm(**algorithm)), tokenizer=Letters(), places=[PLUGINS])


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ({"transform_mode": "delight:Delight", "transform_params": {"eta": 2.0}}, [("Delight", {"eta": 2.0})]),
        (
            {"transforms": [{"name": "sepa_amp.SepaAmp", "clamp": False}, {"name": "delight:Delight"}]},
            [("SepaAmp", {"strength": 0.5, "clamp": False}), ("Delight", {"eta": 1.0})],
        ),
    ],
)
def test_a_config_makes_the_example_transforms_with_its_options(algorithm, expected):
    made = pipeline_of(**algorithm)
    assert [(type(transform).__name__, vars(transform)) for transform in made.transforms] == expected


def test_a_config_makes_the_example_baseline():
    algorithm = Algorithm(advantage_mode="maxrl_floor:MaxRlFloor", advantage_params={"floor": 0.3})
    assert vars(baselines.build(algorithm, [PLUGINS])) == {"floor": 0.3}


def test_gtpo_reads_the_example_signal():
    """Ranks 1/3, 1/3, 5/6 have the mean 1/2: weights 1 + 0.1·(−1/3, −1/3, 2/3), and the mean advantage stays."""
    made = pipeline_of(uncertainty_kind="rank_signal:rank", transform_mode="gtpo")
    case = build([completion(1.0, 1.0, 9.0)])
    credit = made(torch.tensor([2.0]), case.ctx.batch, planning_mask=None, step=0, log=case.logged.__setitem__)
    assert credit.uncertainty.tolist() == [pytest.approx([1 / 3, 1 / 3, 5 / 6])]
    assert credit.advantages.tolist() == [pytest.approx([2 - 0.2 / 3, 2 - 0.2 / 3, 2 + 0.4 / 3], abs=1e-6)]


def test_sepa_amp_is_given_the_planning_tokens_that_it_requires():
    """Of "1.double check.9" the phrase keeps its uncertainty; of the other four tokens the outer two move apart."""
    text = "1.double check.9"
    case = build([completion(0.0, *[5.0] * (len(text) - 2), 10.0)])
    batch = replace(case.ctx.batch, completion_ids=torch.tensor([list(map(ord, text))]))
    made = pipeline_of(transforms=[{"name": "sepa_amp:SepaAmp", "strength": 1.0, "clamp": False}])
    mask = made.planning_mask(batch, step=0)
    credit = made(torch.tensor([1.0]), batch, planning_mask=mask, step=0, log=case.logged.__setitem__)
    assert "".join(c for c, planning in zip(text, mask[0].tolist(), strict=True) if planning) == "double check"
    assert credit.uncertainty.tolist() == [[-5.0, *[5.0] * (len(text) - 2), 15.0]]


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ({"transform_mode": "delight:Delight", "transform_params": {"eta": 0.0}}, "eta = 0, more than 0 is needed"),
        ({"transform_mode": "delight:Delight", "transform_params": {"etta": 1.0}}, "no option etta"),
        ({"transforms": [{"name": "sepa_amp:SepaAmp", "strength": -1.0}]}, "strength = -1, at least 0 is needed"),
        ({"advantage_mode": "maxrl_floor:MaxRlFloor", "advantage_params": {"floor": 0.0}}, "floor = 0, more than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(algorithm, said):
    with pytest.raises(ConfigError, match=said):
        _ = baselines.build(Algorithm(**algorithm), [PLUGINS]), pipeline_of(**algorithm)
