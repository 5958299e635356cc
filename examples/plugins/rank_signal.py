"""Uncertainty as a rank: how many of its completion's tokens were less surprising than this one.

    H_t = (number of smaller s + half the number of equal s, itself among them) / n,    s = −log p,  n sampled tokens

    [algorithm]
    uncertainty_kind = "rank_signal:rank"
    transform_mode = "gtpo"

Surprisal has a long tail: one token of 12 nats makes all others look certain to a transform that divides by the mean.
Ranks do not: they are spread evenly over (0, 1) and their mean is exactly 1/2 in every completion, so gtpo gives the
same weights to a calm and to an excited one. Equal tokens share their middle rank, so nothing depends on the order.
Domain: any finite log-probabilities; only their order counts.
Edges: a completion of one token has rank 1/2; tokens outside the mask, and completions without any, get 0.
Source: the mid-rank of statistics (ties as in Wilcoxon's test); its use here is ours.
"""

import torch
from torch import Tensor

from retrain.types import Batch


def rank(batch: Batch) -> Tensor:
    # Masked tokens go to the far end of each sorted row, where no token of the row counts them.
    surprisal = torch.where(batch.loss_mask, -batch.sampling_logprobs.double(), torch.inf)  # [B,T]
    ordered = surprisal.sort(dim=1).values
    smaller = torch.searchsorted(ordered, surprisal)
    not_larger = torch.searchsorted(ordered, surprisal, right=True)
    tokens = batch.loss_mask.sum(dim=1, keepdim=True).clamp(min=1)  # [B,1]
    return torch.where(batch.loss_mask, (smaller + not_larger).double() / 2 / tokens, 0.0)
