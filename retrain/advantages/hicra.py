"""HICRA: give planning tokens more credit than the tokens that carry the plan out.

    A_t ← A_t + α·|A_t|   on planning tokens,   A_t elsewhere

So a planning token of a good completion is reinforced more, and one of a bad completion is punished less. α ≥ 0; for
α < 1 every sign stays, for α = 1 punishments vanish, beyond it they turn into rewards.

Edge cases: α = 0 and a completion without planning tokens change nothing.

Source: arXiv 2509.03646, which collects its planning phrases from solved problems; which phrases count here is said in
retrain/advantages/planning.py. See docs/advantages.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit


class Hicra:
    """Add α·|A| on planning tokens."""

    requires: frozenset[str] = frozenset({"planning_mask"})
    scope = "row"
    keeps_zero_rows = True

    def __init__(self, options: schema.Hicra) -> None:
        self.alpha = options.alpha

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        assert ctx.planning_mask is not None
        amplified = credit.advantages + self.alpha * credit.advantages.abs()
        return credit.replace(advantages=torch.where(ctx.planning_mask, amplified, credit.advantages))
