"""How strong SEPA is at a step: λ ∈ [0, 1].

    linear(t) = clip((t − delay) / steps, 0, 1),   0 if steps = 0
    auto(t)   = max(1 − min((ema / v0) / 0.2, 1), linear(t))   once v0 is known, linear(t) before

t counts optimiser steps from 0. `steps` −1 means max_steps // 2 and `delay_steps` −1 means max_steps // 10, both
rounded down. `auto` watches v, the variance of a completion's execution-token uncertainty, one observation per
completion in row order: ema ← 0.99·ema + 0.01·v, started by the first value; v0 = max(ema, 1e-8) after the 50th
observation, then frozen. λ reaches 1 as uncertainty settles, and never falls behind the linear schedule.

Gate: λ = 0 until the correct rate of some batch, the share of its scorable rewards above 0.5, reached
`correct_rate_gate`; then the gate stays open. A gate of 0 is open from the start. What step t shows acts from the
next step.

Source: ours, see docs/sepa.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from retrain.types import CORRECT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

    from retrain.config import schema

DECAY = 0.99  # of the moving average: it remembers about 100 completions
WARM_UP = 50  # observations before the reference variance is frozen
LEAST_VARIANCE = 1e-8  # of the reference: completions that were all alike leave nothing to divide by
SETTLED = 0.2  # λ leaves 0 when the variance has fallen below this share of the reference


class SepaSchedule:
    """λ as a function of the step and of what earlier steps showed. Its state is part of a checkpoint."""

    def __init__(self, options: schema.Sepa) -> None:
        self.options = options
        self.count = 0
        self.ema = 0.0
        self.v0: float | None = None
        self.gate_open = options.correct_rate_gate <= 0

    def strength(self, step: int, max_steps: int) -> float:
        """Return λ of optimiser step `step` (from 0)."""
        if not self.gate_open:
            return 0.0
        linear = self.linear(step, max_steps)
        if self.options.schedule == "linear" or self.v0 is None:
            return linear
        return max(1 - min(self.ema / self.v0 / SETTLED, 1.0), linear)

    def linear(self, step: int, max_steps: int) -> float:
        """Return λ of the linear schedule, whatever the gate says."""
        delay, steps = self.options.timing(max_steps)
        return min(max((step - delay) / steps, 0.0), 1.0) if steps else 0.0

    def observe(self, variances: Float[Tensor, " N"], rewards: Float[Tensor, " B"]) -> None:
        """Learn from a step: the variances of those completions that have one, in row order, and all rewards."""
        until_frozen = max(WARM_UP - self.count, 0)
        self._average(variances[:until_frozen])
        if self.v0 is None and self.count >= WARM_UP:
            self.v0 = max(self.ema, LEAST_VARIANCE)
        self._average(variances[until_frozen:])
        scored = rewards[~rewards.isnan()]
        if len(scored):
            self.gate_open |= float((scored > CORRECT).double().mean()) >= self.options.correct_rate_gate

    def _average(self, v: Float[Tensor, " N"]) -> None:
        """Fold N observations into the average at once: ema·0.99^N + Σ_i 0.01·v_i·0.99^(N−1−i)."""
        if not len(v):
            return
        weights = DECAY ** torch.arange(len(v) - 1, -1, -1, dtype=torch.float64)
        first = self.ema if self.count else float(v[0])  # ema ← 0.99·v + 0.01·v: the first value starts it
        self.ema = first * DECAY ** len(v) + (1 - DECAY) * float(weights @ v.cpu())
        self.count += len(v)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "ema": self.ema, "v0": self.v0, "gate_open": self.gate_open}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.ema = state["count"], state["ema"]
        self.v0, self.gate_open = state["v0"], state["gate_open"]
