"""The smallest difference between two conditions that so many seeds can detect, before anything has run.

The paired t-test over n common seeds rejects where |t| > c, with ν = n − 1. A true difference of δ standard
deviations of the paired differences makes t noncentral with δ√n. With s = √(χ²_ν / ν), whose density is f,

    power(δ) = ∫ f(s) [Φ(δ√n − c·s) + Φ(−δ√n − c·s)] ds

c is where power(0) is the level of the test. Holm's first step tests at α / m for m comparisons with the baseline,
and so does every difference that the verdict is to be promised for. No scipy: `retrain explain` has to answer at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHA, POWER = 0.05, 0.8
PANELS = 400  # of Simpson's rule
FEWEST_SEEDS = 4  # fewer give no verdict


def detectable_difference(seeds: int, comparisons: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the difference that is found with this power, in standard deviations of the paired differences.

    seeds:       common to both conditions, at least 2
    comparisons: with the baseline, at least 1
    """
    freedom, root = seeds - 1, math.sqrt(seeds)
    critical = _where(lambda c: alpha / comparisons - rejected(0.0, c, freedom))
    return _where(lambda delta: rejected(delta * root, critical, freedom) - power)


def rejected(shift: float, critical: float, freedom: int) -> float:
    """Return P(|t| > critical) of a noncentral t with so many degrees of freedom.

    The integral runs over x = √s, so that its points are dense near 0, where few degrees of freedom reject.
    """
    norm = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    step = math.sqrt(1 + 9 / math.sqrt(2 * freedom)) / PANELS
    total = 0.0
    for i in range(1, PANELS + 1):  # at 0 the integrand is 0
        x = i * step
        s = x * x
        log_density = norm + (freedom - 1) * math.log(s) - freedom * s * s / 2
        tails = math.erfc((critical * s - shift) / math.sqrt(2)) + math.erfc((critical * s + shift) / math.sqrt(2))
        total += (1 if i == PANELS else 4 if i % 2 else 2) * math.exp(log_density) * tails / 2 * 2 * x
    return total * step / 3


def _where(rising: Callable[[float], float]) -> float:
    """Return where a rising function of a positive number is 0, within a millionth of it."""
    high = 1.0
    while rising(high) < 0:
        high *= 2
    low = high / 2 if high > 1 else 0.0
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
