"""Clip: bound every token's advantage.

    A_t ← min(max(A_t, −max), max),   max > 0;   max = 0 is off

It comes last in the list, since what follows could exceed the bound again. The key is `algorithm.adv_clip_max`.

Source: usual practice; it keeps one rare token, such as maxrl's success among many failures, from taking the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit


class Clip:
    """Bound advantages to [−max, max].

    Logs clip/clipped_share: the share of the batch's trained tokens that were outside.
    """

    requires: frozenset[str] = frozenset()
    scope = "row"
    keeps_zero_rows = True

    def __init__(self, options: schema.Clip) -> None:
        self.max = options.max

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        if self.max == 0:
            return credit
        mask = ctx.loss_mask
        outside = (credit.advantages.abs() > self.max) & mask
        ctx.log("clip/clipped_share", float(outside.sum()) / max(int(mask.sum()), 1))
        return credit.replace(advantages=credit.advantages.clamp(-self.max, self.max))
