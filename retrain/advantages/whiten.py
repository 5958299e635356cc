"""Whiten: bring the batch's token advantages to mean 0 and standard deviation 1.

    A_t ← (A_t − mean) / (std + 1e-8)

Mean and (population) standard deviation run over all trained tokens of the batch, those of advantage 0 included: by
mask, never by "value ≠ 0". So rows of zeros, such as those of uninformative groups, get an advantage here. Only
unscorable completions (reward NaN) stay out of it and at 0: nothing is known of them.

Edge cases: equal advantages become exactly 0; so does a batch of one token; a batch without trained tokens is left
as zeros.

Source: usual practice in PPO (arXiv 2006.05990).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit


class Whiten:
    """Normalise advantages over the tokens of the batch."""

    requires: frozenset[str] = frozenset()
    scope = "batch"
    keeps_zero_rows = False

    def __init__(self, options: schema.Whiten) -> None:
        del options  # it has none

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        scored = ctx.loss_mask & ~ctx.batch.rewards.isnan()[:, None]
        tokens = credit.advantages[scored]  # [N]
        tokens = tokens - tokens[:1]  # equal advantages are now exactly 0, and so is their mean: no rounding error
        tokens -= tokens.mean()
        tokens /= tokens.square().mean().sqrt() + 1e-8
        return credit.replace(advantages=torch.zeros_like(credit.advantages).masked_scatter_(scored, tokens))
