"""Sampler and trainer score the same distribution: at identical weights the ratio new/old is 1 for every token.

A mean of 1 hides a broken tail, hence percentiles. Log-probabilities are in nats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from retrain.errors import RunError
from retrain.health import GROSS_OUTSIDE, GROSS_P50

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

EXACT_P99 = 1e-4  # float32 in process: rounding stays below 2e-5, a wrong temperature or template is far above


def is_exact(dtype: torch.dtype) -> bool:
    """Tell whether sampler and trainer, in process, compute the same numbers up to float32 rounding."""
    return dtype in (torch.float32, torch.float64)


class RatioContract:
    """Compares the two, token by token, over one step at a time.

    exact: both compute the same numbers up to float32 rounding: hold them to it
    open:  they have been compared at identical weights, before anything was updated
    """

    def __init__(self, *, exact: bool) -> None:
        self.exact, self.open = exact, False
        self._gaps: list[Tensor] = []

    def add(self, new: Float[Tensor, " N"], sampled: Float[Tensor, " N"]) -> None:
        """Take the log-probabilities of some tokens, as the trainer and as the sampler scored them."""
        self._gaps.append((new.detach() - sampled).double())

    def forget(self) -> None:
        """Drop what was added since the last `settle`: it is computed again."""
        self._gaps = []

    def settle(self, *, at_identical_weights: bool) -> dict[str, float]:
        """Return percentiles of |log new/old| over the step, and the share of ratios outside [0.9, 1.1].

        Raises:
            RunError: the first comparison at identical weights finds two policies.
        """
        if not self._gaps:
            return {}
        gaps, self._gaps = torch.cat(self._gaps), []
        if not len(gaps):  # no token was trained: nothing has been compared
            return {}
        p50, p95, p99 = torch.quantile(gaps.abs()[: 2**24], gaps.new_tensor([0.5, 0.95, 0.99])).tolist()
        ratios = gaps.exp()
        outside = float(((ratios < 0.9) | (ratios > 1.1)).double().mean())
        if at_identical_weights and not self.open:
            if p50 > GROSS_P50 or outside > GROSS_OUTSIDE or (self.exact and not p99 <= EXACT_P99):
                raise RunError(
                    f"sampler and trainer disagree at identical weights: |Δ log p| has p50 {p50:.1e}, p95 {p95:.1e}, "
                    f"p99 {p99:.1e}, and {outside:.0%} of the ratios lie outside [0.9, 1.1]. The completions were "
                    "sampled by another policy, at another temperature, from a truncated distribution, or in another "
                    "precision",
                    "check training.temperature and model.dtype",
                )
            self.open = True
        return {"ratio/p50": p50, "ratio/p95": p95, "ratio/p99": p99, "ratio/outside": outside}
