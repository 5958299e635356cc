"""Baselines against plain Python written from the formulas, and against TRL's own arithmetic."""

import logging
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.baselines import Grpo, MaxRl, ReinforcePp, Rloo, uninformative

REWARD = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 3).map(lambda x: round(x, 3)), st.none())


@st.composite
def grouped(draw, reward=REWARD):
    """Rewards of one to four groups; None is unscorable."""
    return draw(st.lists(st.lists(reward, min_size=1, max_size=6), min_size=1, max_size=4))


def tensors(groups):
    flat = [math.nan if r is None else r for group in groups for r in group]
    ids = [i for i, group in enumerate(groups) for _ in group]
    return torch.tensor(flat, dtype=torch.float64), torch.tensor(ids)


def reference(groups, advantage):
    """Apply `advantage(rewards of the group's scorable rows, r)`; 0 where unscorable or where all rewards are equal."""
    out = []
    for group in groups:
        scored = [r for r in group if r is not None]
        equal = not scored or max(scored) - min(scored) <= 1e-6
        out += [0.0 if r is None or equal else advantage(scored, r) for r in group]
    return out


def assert_close(got, expected):
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(grouped())
def test_grpo_is_the_reward_minus_its_groups_mean(groups):
    assert_close(Grpo()(*tensors(groups)), reference(groups, lambda scored, r: r - statistics.fmean(scored)))


@given(grouped())
def test_grpo_scaled_by_group_divides_by_the_unbiased_deviation(groups):
    def advantage(scored, r):
        return (r - statistics.fmean(scored)) / (statistics.stdev(scored) + 1e-4)

    assert_close(Grpo(scale_rewards="group")(*tensors(groups)), reference(groups, advantage))


@given(grouped())
def test_grpo_scaled_by_batch_divides_by_the_batchs_deviation(groups):
    scored = [r for group in groups for r in group if r is not None]
    deviation = statistics.stdev(scored) if len(scored) > 1 else 0.0
    expected = reference(groups, lambda mine, r: (r - statistics.fmean(mine)) / (deviation + 1e-4))
    assert_close(Grpo(scale_rewards="batch")(*tensors(groups)), expected)


@given(grouped())
def test_maxrl_divides_by_the_mean(groups):
    def advantage(scored, r):
        mean = statistics.fmean(scored)
        return (r - mean) / (mean + 1e-6) if mean > 1e-6 else 0.0

    assert_close(MaxRl()(*tensors(groups)), reference(groups, advantage))


@given(grouped())
def test_rloo_is_the_reward_minus_the_mean_of_the_others(groups):
    def advantage(scored, r):
        others = list(scored)
        others.remove(r)
        return r - statistics.fmean(others) if others else 0.0

    assert_close(Rloo()(*tensors(groups)), reference(groups, advantage))


@given(grouped())
def test_reinforce_pp_has_mean_zero_and_deviation_one_over_the_scorable_rows(groups):
    rewards, ids = tensors(groups)
    advantages = ReinforcePp()(rewards, ids)
    scored = ~rewards.isnan()
    assert bool((advantages[~scored] == 0).all())
    if bool((~uninformative(rewards, ids) & scored).any()):
        assert advantages[scored].mean().item() == pytest.approx(0, abs=1e-9)
        assert advantages[scored].std(correction=0).item() == pytest.approx(1, rel=1e-4)
    else:
        assert not advantages.any()


@given(grouped(), st.randoms())
def test_the_order_of_rows_does_not_matter(groups, random):
    rewards, ids = tensors(groups)
    order = torch.tensor(random.sample(range(len(ids)), len(ids)))
    for baseline in (Grpo(scale_rewards="group"), MaxRl(), Rloo(), ReinforcePp()):
        moved = baseline(rewards[order], ids[order])
        assert moved.tolist() == pytest.approx(baseline(rewards, ids)[order].tolist(), rel=1e-9, abs=1e-12)


def test_grpo_scaled_by_group_equals_trls_arithmetic():
    """TRL 1.16: nanmean over the group, unbiased deviation, 1e-4 added (grpo_trainer.py, scale_rewards="group")."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(6, 8, generator=generator)
    deviation = rewards.std(dim=1, keepdim=True)
    expected = (rewards - rewards.mean(dim=1, keepdim=True)) / (deviation + 1e-4)
    got = Grpo(scale_rewards="group")(rewards.double().flatten(), torch.arange(6).repeat_interleave(8))
    assert torch.allclose(got.float(), expected.flatten(), atol=1e-5)


def test_maxrl_reports_a_negative_reward_once_and_names_the_group(caplog):
    baseline = MaxRl()
    rewards, ids = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    with caplog.at_level(logging.WARNING, logger="retrain"):
        baseline(rewards, ids)
        baseline(rewards, ids)
    assert len(caplog.records) == 1
    assert "group 1" in caplog.text
    assert "-1" in caplog.text


def test_a_group_of_nearly_equal_rewards_gets_exactly_zero():
    rewards = torch.tensor([0.3, 0.3 + 1e-9, 0.3 - 1e-9, 0.0, 1.0, 1.0], dtype=torch.float64)
    ids = torch.tensor([0, 0, 0, 1, 1, 1])
    for baseline in (Grpo(scale_rewards="group"), MaxRl(), Rloo(), ReinforcePp()):
        advantages = baseline(rewards, ids)
        assert not advantages[:3].any()
        assert advantages[3:].all()
