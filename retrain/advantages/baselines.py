"""Episode baselines: rewards [B] to one advantage per completion [B], by group, in float64.

Conventions shared by all of them (spec 2.1):
    an unscorable reward (NaN) counts for nobody and gets advantage 0;
    a group whose rewards are all equal within 1e-6 is *uninformative*: every advantage in it is exactly 0.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from retrain import registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from retrain.config.schema import Algorithm
    from retrain.types import Baseline

log = logging.getLogger(__name__)

EQUAL = 1e-6  # rewards closer than this tell a group nothing
TRL_EPSILON = 1e-4  # what TRL adds to the standard deviation it divides by
CORRECT = 0.5  # a reward above this counts as a correct answer


def group_sum(values: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Sum over each row's group, given back to every row of it."""
    totals = values.new_zeros(int(group_ids.max()) + 1).index_add_(0, group_ids, values)
    return totals[group_ids]


def group_count(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Count the scorable rows of each row's group."""
    return group_sum((~rewards.isnan()).double(), group_ids)


def group_mean(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean over the scorable rows of each row's group; 0 for a group without any."""
    return group_sum(rewards.nan_to_num(0.0), group_ids) / group_count(rewards, group_ids).clamp(min=1)


def group_range(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Lowest and highest scorable reward of each group; (inf, −inf) for a group without any."""
    size = int(group_ids.max()) + 1
    low = rewards.new_full((size,), torch.inf).scatter_reduce_(0, group_ids, rewards.nan_to_num(torch.inf), "amin")
    high = rewards.new_full((size,), -torch.inf).scatter_reduce_(0, group_ids, rewards.nan_to_num(-torch.inf), "amax")
    return low, high


def uninformative(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """True on rows whose group has (nearly) equal rewards: no baseline can tell its completions apart."""
    low, high = group_range(rewards, group_ids)
    return (high - low <= EQUAL)[group_ids]


def centred(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """r − mean(group), exactly 0 for unscorable rows and uninformative groups."""
    nothing = rewards.isnan() | uninformative(rewards, group_ids)
    return torch.where(nothing, 0.0, rewards - group_mean(rewards, group_ids))


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """A = r − mean(group); optionally divided by a standard deviation, as TRL does.

    scale_rewards: "none" (arXiv 2503.20783 argues for it); "group": A / (std(group) + 1e-4) (arXiv 2402.03300);
    "batch": A / (std(batch) + 1e-4). The standard deviation is the unbiased one (n − 1), over scorable rows.
    """

    scale_rewards: str = "none"

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        advantages = centred(rewards, group_ids)
        if self.scale_rewards == "group":
            squares = group_sum((rewards - group_mean(rewards, group_ids)).nan_to_num(0.0) ** 2, group_ids)
            deviation = (squares / (group_count(rewards, group_ids) - 1).clamp(min=1)).sqrt()
        elif self.scale_rewards == "batch":
            scored = rewards[~rewards.isnan()]
            deviation = scored.std() if len(scored) > 1 else rewards.new_zeros(())
        else:
            return advantages
        return advantages / (deviation + TRL_EPSILON)


@dataclass(frozen=True, kw_only=True)
class MaxRl:
    """A = (r − m) / (m + 1e-6), m the group's mean reward; a group with m ≤ 1e-6 gets zeros (arXiv 2602.02710).

    For rewards of 0 and 1 this is the gradient of the expected log of the success rate: its size grows like 1/m, so
    the rare success of a hard problem counts more. It assumes r ≥ 0; a negative reward is reported once.
    """

    reported: list[int] = field(default_factory=list, repr=False, init=False)

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        if bool((rewards < 0).any()) and not self.reported:
            row = int((rewards < 0).nonzero()[0])
            self.reported.append(int(group_ids[row]))
            log.warning(
                "maxrl assumes rewards of at least 0, but group %d of this step has one of %g; "
                "its groups with a mean of at most 0 get no advantage: shift the rewards, or use grpo",
                int(group_ids[row]),
                float(rewards[row]),
            )
        mean = group_mean(rewards, group_ids)
        return torch.where(mean > EQUAL, centred(rewards, group_ids) / (mean + EQUAL), 0.0)


@dataclass(frozen=True, kw_only=True)
class Rloo:
    """A_i = r_i − mean of the group's other rewards; 0 when there is no other (arXiv 2402.14740)."""

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        count = group_count(rewards, group_ids)
        return torch.where(count > 1, centred(rewards, group_ids) * count / (count - 1).clamp(min=1), 0.0)


@dataclass(frozen=True, kw_only=True)
class ReinforcePp:
    """grpo, then the scorable rows normalised over the batch: (A − mean(A)) / (std(A) + 1e-8) (arXiv 2501.03262).

    A step in which every group is uninformative stays at zero.
    """

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        advantages, scored = centred(rewards, group_ids), ~rewards.isnan()
        if not advantages.any():
            return advantages
        kept = advantages[scored]
        return torch.where(scored, (advantages - kept.mean()) / (kept.std(correction=0) + 1e-8), 0.0)


def build(algorithm: Algorithm, places: Sequence[Path]) -> Baseline:
    """Make the baseline that `advantage_mode` names; a class gets those keys of [algorithm] that it has fields for."""
    made: Any = registry.resolve("baseline", algorithm.advantage_mode, places=places)
    if not isinstance(made, type):
        return made  # a plain function; what it returns is checked at every step
    fields = dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
    known = [f.name for f in fields if f.init and hasattr(algorithm, f.name)]
    baseline: Any = made(**{name: getattr(algorithm, name) for name in known})
    return baseline
