"""Entropy mask: train only on the tokens at which the policy was most uncertain.

    A_t ← A_t if H_t ≥ τ else 0,   τ = the k-th largest H of the group,   k = max(1, ⌊N·ρ⌋)

N counts the trained tokens of all completions of the group, ρ ∈ (0, 1]. Ties with τ are kept, so that k tokens stay,
or more. ρ is meant as the decimal that it is written as: 0.29·100 is 28.999… in binary, and k is 29.

Edge cases: a group without trained tokens has nothing to keep. Completions of advantage 0 and unscorable ones
still count: how uncertain a token is does not depend on its reward.

Source: arXiv 2506.01939, where the threshold is that of the whole batch; here it is the group's, so that a hard
problem does not take the tokens of an easy one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit

ROUNDING = 1e-12  # relative; makes up for a decimal ρ that float64 holds as slightly less


class EntropyMask:
    """Keep the advantage of each group's most uncertain tokens.

    Logs entropy_mask/kept_share: the share of the batch's trained tokens that keep theirs.
    """

    requires: frozenset[str] = frozenset()
    scope = "group"
    keeps_zero_rows = True

    def __init__(self, options: schema.EntropyMask) -> None:
        self.rho = options.rho

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        mask, ids = ctx.loss_mask, ctx.batch.group_ids
        tokens = credit.uncertainty[mask]  # [N], all groups together
        thresholds = kth_largest(tokens, ids[:, None].expand_as(mask)[mask], int(ids.max()) + 1, self.rho)
        kept = mask & (credit.uncertainty >= thresholds[ids][:, None])
        ctx.log("entropy_mask/kept_share", float(kept.sum()) / max(len(tokens), 1))
        return credit.replace(advantages=torch.where(kept, credit.advantages, 0.0))


def kth_largest(
    values: Float[Tensor, " N"], group_ids: Int[Tensor, " N"], num_groups: int, share: float
) -> Float[Tensor, " G"]:
    """Return the k-th largest value of each group, k = max(1, ⌊n·share⌋); inf for an empty group."""
    order = values.argsort(descending=True)
    order = order[group_ids[order].argsort(stable=True)]  # by group, the largest first
    counts = group_ids.bincount(minlength=num_groups)
    kept = (counts.double() * share * (1 + ROUNDING)).long().clamp(min=1)  # ⌊n·share⌋, in float64
    last_kept = counts.cumsum(0) - counts + kept - 1
    thresholds = values.new_full((num_groups,), torch.inf)
    thresholds[counts > 0] = values[order[last_kept[counts > 0]]]
    return thresholds
