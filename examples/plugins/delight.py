"""Delight: amplify surprising successes, play down surprising failures.

    A_t = A_t · σ(A_t · ŝ_t / η),    ŝ_t = s_t / mean(s),    s_t = −log p_t

    [algorithm]
    transforms = [{ name = "delight:Delight", eta = 0.5 }]

σ is the logistic function, the mean runs over the completion's sampled tokens. A token of positive advantage keeps
between half of it (it was certain) and all of it (a surprise); one of negative advantage between half and nothing.
Every sign stays. A large η makes all gates 1/2, a small one keeps successes and drops failures.
Domain: η > 0; log-probabilities of at most 0. The surprisal is that of the sampled token, whatever
`uncertainty_kind` says, and uncertainty is left alone.
Edges: a completion sampled (almost) greedily, mean surprisal below 1e-7 nats, has ŝ = 1 throughout: nothing to tell
apart, and the gate depends on its advantage alone.
Source: arXiv 2603.14608, which gates with σ(advantage · surprisal / η), the surprisal as it is. For tokens of one
completion the division by its mean is our reading: one η then suits calm and excited models alike.
"""

from dataclasses import dataclass

import torch

from retrain.advantages.masked import masked_mean
from retrain.types import AdvantageContext, Credit

CERTAIN = 1e-7  # nats


@dataclass
class Delight:
    eta: float = 1.0

    requires = frozenset()  # log-probabilities of the sampled tokens are always there
    scope = "row"
    keeps_zero_rows = True

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(f"eta = {self.eta:g}, more than 0 is needed")

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit:
        surprisal = -ctx.batch.sampling_logprobs.double()  # [B,T]
        mean = masked_mean(surprisal, ctx.loss_mask, keepdim=True)  # [B,1]
        relative = torch.where(mean < CERTAIN, 1.0, surprisal / mean.clamp(min=CERTAIN))
        gate = torch.sigmoid(credit.advantages * relative / self.eta)
        ctx.log("delight/mean_gate", float(gate[ctx.loss_mask].mean()) if ctx.loss_mask.any() else 0.5)
        return credit.replace(advantages=credit.advantages * gate)
