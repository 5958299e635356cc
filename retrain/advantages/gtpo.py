"""GTPO: spend a completion's advantage where the policy was uncertain.

    w_t = max(0, 1 + β·(H_t / (μ + 1e-8) − 1)),   A_t ← A_t·w_t

H_t is the token's uncertainty (≥ 0, in the unit of the signal), μ its mean over the completion's trained tokens.
β ≥ 0. For β ≤ 1 no weight is clamped, and the mean weight of a completion is 1 − β·1e-8/(μ + 1e-8): an advantage that
is the same on every token keeps its mean.

Edge cases: β = 0, and a completion with μ < 1e-7 (sampled greedily, or without trained tokens) have nothing to tell
apart: every token keeps A_t.

Source: a variant of arXiv 2508.04349, which compares a token with the tokens at its position in the other completions
of the group, and adds to the reward; here a token is compared with its own completion. See docs/advantages.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.advantages.masked import masked_mean

if TYPE_CHECKING:
    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit

CERTAIN = 1e-7  # a mean uncertainty below this is a completion that was sampled (almost) greedily


class Gtpo:
    """Weigh advantages by relative uncertainty.

    Logs gtpo/clamped_share: the share of the batch's trained tokens whose weight was negative before the clamp.
    """

    requires: frozenset[str] = frozenset()
    scope = "row"
    keeps_zero_rows = True

    def __init__(self, options: schema.Gtpo) -> None:
        self.beta = options.beta

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        mask = ctx.loss_mask
        mean = masked_mean(credit.uncertainty, mask, keepdim=True)  # [B,1]
        beta = self.beta * (mean >= CERTAIN).to(mean)  # [B,1]
        weight = 1 + beta * (credit.uncertainty / (mean + 1e-8) - 1)  # [B,T]
        ctx.log("gtpo/clamped_share", float(((weight < 0) & mask).sum()) / max(int(mask.sum()), 1))
        return credit.replace(advantages=credit.advantages * weight.clamp_(min=0))
