"""Random numbers without a generator, and the tokens that they choose.

Every number is a pure function of (stream, seed, step, task, rollout, position). There is no state to save, evaluation
on another stream disturbs nothing, and a completion never depends on what it was batched with.

The mixing function is splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the constants as signed 64-bit numbers: torch has no uint64 arithmetic
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64


def _mix(x: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Scramble 64 bits. Products wrap; each mask turns torch's arithmetic shift into a logical one."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MULTIPLY_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MULTIPLY_2
    return x ^ ((x >> 31) & (2**33 - 1))


def row_keys(
    *, stream: int, seed: int, step: int, tasks: Int[Tensor, " N"], rollouts: Int[Tensor, " N"]
) -> Int[Tensor, " N"]:
    """Return one 64-bit key per row, different for every combination of the five numbers."""
    key = torch.zeros_like(tasks)
    for part in (stream, seed, step, tasks, rollouts):
        key = _mix(key + part + _GOLDEN)
    return key


def uniforms(keys: Int[Tensor, " N"], position: int) -> Float[Tensor, " N"]:
    """Return one float64 in [0, 1) per row for the token at `position`, a multiple of 2^-53."""
    counter = torch.full_like(keys, position + 1) * _GOLDEN  # as a tensor: it wraps, a Python number would overflow
    return ((_mix(keys + counter) >> 11) & (2**53 - 1)).double() * 2.0**-53


def nucleus(prob: Float[Tensor, "N V"], top_p: float) -> Float[Tensor, "N V"]:
    """Keep the fewest tokens whose probabilities reach `top_p`, at least one; the others become 0. Not renormalised."""
    ordered, index = prob.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # probability of everything likelier
    return torch.zeros_like(prob).scatter(-1, index, ordered.where(before < top_p, 0.0))


class Drawn(NamedTuple):
    """One token a row, and what the sampler knew when it chose it."""

    tokens: Int[Tensor, " N"]
    logprobs: Float[Tensor, " N"]
    entropies: Float[Tensor, " N"]


def draw(
    logits: Float[Tensor, "N V"], uniform: Float[Tensor, " N"], *, temperature: float, top_p: float = 1.0
) -> Drawn:
    """Choose a token per row by inverting the cumulative distribution.

        p = softmax(logits / temperature),   token = min {v : p_0 + ... + p_v > u},   H = -Σ p ln p

    With top_p < 1 the token comes from the renormalised nucleus, but its log-probability and the entropy stay those of
    the full distribution, which is what the loss scores.

    Temperature 0 is the limit: the likeliest token, of equal ones the lowest id, whatever u and top_p are. There the
    distribution has no log-probabilities to speak of; those returned, and the entropy, are of temperature 1.
    """
    logp = (logits / (temperature or 1.0)).log_softmax(-1)
    prob = logp.exp()
    entropies = -(prob * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)  # a logit of -inf: 0 · -inf is NaN
    if temperature == 0:
        likeliest = logits.argmax(-1, keepdim=True)  # the first of equal ones; a NaN if there is one
        return Drawn(likeliest[:, 0], logp.gather(1, likeliest)[:, 0], entropies)
    kept = prob if top_p >= 1 else nucleus(prob, top_p)
    cumulative = kept.double().cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total even when u · total rounds up to it: the token found has a positive probability.
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[1] - 1)  # NaN would be outside
    return Drawn(tokens[:, 0], logp.gather(1, tokens)[:, 0], entropies)
