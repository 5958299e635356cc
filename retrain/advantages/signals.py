"""Token uncertainty H_t [B,T]: what transforms read, of the policy at the training temperature.

A signal is a function of the batch. It is 0 on tokens that are not trained, whatever the batch holds there, and it
comes in float64. What a signal needs of the engine stands beside its name in `retrain.registry`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.errors import RunError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from retrain.types import Batch

MOST = 50.0  # nats; a token less likely than e^-50 was never sampled, so more is a numerical accident


def surprisal(batch: Batch) -> Float[Tensor, "B T"]:
    """H_t = −log p_t of the sampled token, capped at 50 nats."""
    return _trained(-batch.sampling_logprobs, batch).clamp(max=MOST)


def predictive_variance(batch: Batch) -> Float[Tensor, "B T"]:
    """H_t = p_t·(1 − p_t), p_t the probability of the sampled token: 0 where it was certain or as good as impossible.

    The variance of a coin that shows heads with probability p; at most 1/4. A p that rounding has pushed above 1 is 1.
    """
    p = batch.sampling_logprobs.double().exp().clamp(max=1.0)
    return _trained(p * (1 - p), batch)


def shannon_entropy(batch: Batch) -> Float[Tensor, "B T"]:
    """H_t = −Σ p ln p over the whole vocabulary, in nats, as the engine measured it while sampling.

    Raises:
        RunError: the engine measured none.
    """
    if batch.entropies is None:
        message = 'uncertainty_kind = "shannon_entropy" needs the entropy of every sampled token'
        raise RunError(f"{message}, and this engine gave none", 'choose "surprisal" or "predictive_variance"')
    return _trained(batch.entropies, batch).clamp(min=0.0)  # rounding: a certain token's may be a little below


def _trained(values: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
    """Put 0 where no token is trained, also where the batch holds inf or NaN."""
    return values.double().masked_fill(~batch.loss_mask, 0.0)
