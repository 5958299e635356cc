"""SEPA: even out the uncertainty of execution tokens, so that what reads it next sees planning stand out.

    H_t ← λ·mean(H_exec) + (1 − λ)·H_t   on execution tokens,   H_t on planning tokens

Execution tokens are the completion's trained tokens that are not planning tokens; the mean runs over them. λ ∈ [0, 1]
comes from a schedule over the run (`sepa_schedule`). Advantages stay as they are: SEPA acts through the transform that
reads the uncertainty after it, so it comes before gtpo in the list. The mean of H over the completion is kept.

Edge cases: λ = 0 is the identity. A completion without execution tokens is left alone. In one without planning
tokens λ = 1 makes every token's uncertainty equal, which cancels gtpo there.

Source: ours, see docs/sepa.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from retrain.advantages.masked import masked_mean
from retrain.advantages.sepa_schedule import SepaSchedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain.config import schema
    from retrain.types import AdvantageContext, Credit


class Sepa:
    """Pull execution tokens' uncertainty to their mean, by a strength that a schedule sets.

    Logs sepa/lambda, and sepa/execution_variance: the mean over completions of the variance of H_exec before SEPA.
    Its scope is the batch: a row depends on no other row of its step, but the schedule learns from all of them.
    """

    requires: frozenset[str] = frozenset({"planning_mask"})
    scope = "batch"
    keeps_zero_rows = True

    def __init__(self, options: schema.Sepa) -> None:
        self.schedule = SepaSchedule(options)

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        assert ctx.planning_mask is not None
        execution = ctx.loss_mask & ~ctx.planning_mask
        mean = masked_mean(credit.uncertainty, execution, keepdim=True)  # [B,1]
        variances = masked_mean((credit.uncertainty - mean).square_(), execution)[execution.any(dim=1)]
        strength = self.schedule.strength(ctx.step, ctx.max_steps)
        self.schedule.observe(variances, ctx.batch.rewards)
        ctx.log("sepa/lambda", strength)
        if len(variances):
            ctx.log("sepa/execution_variance", float(variances.mean()))
        evened = strength * mean + (1 - strength) * credit.uncertainty
        return credit.replace(uncertainty=torch.where(execution, evened, credit.uncertainty))

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.schedule.load_state_dict(state)
