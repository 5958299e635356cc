"""Episode baselines: rewards [B] to one advantage per completion [B], by group, in float64.

Conventions shared by all of them (docs/advantages.md):
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
from retrain.advantages.masked import group_total
from retrain.errors import ConfigError

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


def group_count(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Count the scorable rows of each row's group."""
    return group_total((~rewards.isnan()).double(), group_ids)


def group_mean(rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean over the scorable rows of each row's group; 0 for a group without any."""
    return group_total(rewards.nan_to_num(0.0), group_ids) / group_count(rewards, group_ids).clamp(min=1)


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
            squares = group_total((rewards - group_mean(rewards, group_ids)).nan_to_num(0.0) ** 2, group_ids)
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
    """grpo, then the scorable rows normalised over the batch: A / (std(A) + 1e-8) (arXiv 2501.03262).

    The mean over the batch, which the paper subtracts, is 0 already: every group's rows sum to 0. Subtracting its
    rounding error would give uninformative groups a gradient.
    """

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        advantages, scored = centred(rewards, group_ids), ~rewards.isnan()
        if not scored.any():
            return advantages
        return advantages / (advantages[scored].std(correction=0) + 1e-8)


def build(algorithm: Algorithm, places: Sequence[Path]) -> Baseline:
    """Make the baseline that `advantage_mode` names.

    A built-in one gets the keys of [algorithm] that its fields are named after, a plugin's class `advantage_params`.

    Raises:
        ConfigError: a plugin cannot be imported or does not take its options.
    """
    name, params = algorithm.advantage_mode, algorithm.advantage_params
    made: Any = registry.resolve("baseline", name, places=places)
    if name in registry.BUILTIN["baseline"]:
        options = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(made) if f.init}
        return made(**options)
    if isinstance(made, type):
        return registry.made_with(made, params, f"baseline {name}")
    if params:
        raise ConfigError(f"baseline {name} is a plain function and takes no options: {', '.join(params)}")
    return made  # what it returns is checked at every step
