"""SEPA the other way round: tell execution tokens apart more strongly, instead of less.

    H_t = (1 + λ)·H_t − λ·mean(H_exec)    on execution tokens: sampled, and in no planning phrase
    H_t = H_t                             on planning tokens

    [algorithm]
    transforms = [{ name = "sepa_amp:SepaAmp", strength = 0.5 }, { name = "gtpo" }]

Where `sepa` draws the uncertainty of execution tokens towards their mean, this pushes it away from it by the factor
1 + λ; λ = 0 changes nothing. It rewrites uncertainty only, so a transform that reads it (gtpo) has to follow.
Domain: λ ≥ 0, any finite uncertainty. Without the clamp, the mean over execution tokens stays and values may fall
below 0; with it (the default) they stop at 0, as an entropy does, and the mean can only grow.
Edges: a completion with one execution token, or none, keeps its uncertainty.
Source: our variant of `sepa` (docs/sepa.md); no paper.
"""

from dataclasses import dataclass

import torch

from retrain.advantages.masked import masked_mean
from retrain.types import AdvantageContext, Credit


@dataclass
class SepaAmp:
    strength: float = 0.5  # λ
    clamp: bool = True

    requires = frozenset({"planning_mask"})
    scope = "row"
    keeps_zero_rows = True  # advantages are not touched

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength = {self.strength:g}, at least 0 is needed; transform sepa does the opposite")

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        assert ctx.planning_mask is not None, "`requires` asks for it"
        execution = ctx.loss_mask & ~ctx.planning_mask
        mean = masked_mean(credit.uncertainty, execution, keepdim=True)  # [B,1]
        amplified = mean + (1 + self.strength) * (credit.uncertainty - mean)  # the same, and exact where H = mean
        if self.clamp:
            share = (amplified[execution] < 0).double().mean() if execution.any() else 0.0
            ctx.log("sepa_amp/clamped_share", float(share))
            amplified = amplified.clamp(min=0)
        return credit.replace(uncertainty=torch.where(execution, amplified, credit.uncertainty))
