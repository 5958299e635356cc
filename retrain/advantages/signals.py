"""Token uncertainty H_t [B,T]: what transforms read, of the policy at the training temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from retrain.types import Batch

MOST = 50.0  # nats; a token less likely than e^-50 was never sampled, so more is a numerical accident


def surprisal(batch: Batch) -> Float[Tensor, "B T"]:
    """H_t = −logprob of the sampled token, capped at 50 nats; 0 on tokens that are not trained."""
    return (-batch.sampling_logprobs.double()).clamp(max=MOST) * batch.loss_mask
