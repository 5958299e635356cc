"""From one advantage per completion to one per token: a list of transforms, applied in order.

    Credit ── transform 1 ──▶ Credit ── transform 2 ──▶ … ──▶ Credit      (advantages and uncertainty, [B,T] each)

A transform may rewrite the uncertainty that the next one reads, so the order of the list *is* the algorithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrain.advantages.signals import surprisal
from retrain.errors import RunError
from retrain.types import AdvantageContext, Batch, Credit, Transform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor

MODES: dict[str, tuple[str, ...]] = {"none": ()}
"""`transform_mode` → the transforms it stands for. No mode name is parsed anywhere else."""


class TransformPipeline:
    """Apply transforms in order, in float64: a float32 mean over a row changes with the padding beside it."""

    def __init__(self, transforms: Sequence[Transform], *, max_steps: int) -> None:
        self.transforms = tuple(transforms)
        self.max_steps = max_steps

    def __call__(
        self, advantages: Float[Tensor, " B"], batch: Batch, *, step: int, log: Callable[[str, float], None]
    ) -> Credit:
        """Spread each completion's advantage over its trained tokens, then transform.

        Raises:
            RunError: a transform returned another shape, or a value that is not finite; the message names it.
        """
        ctx = AdvantageContext(batch=batch, step=step, max_steps=self.max_steps, log=log)
        credit = Credit(advantages=advantages.double()[:, None] * batch.loss_mask, uncertainty=surprisal(batch))
        for transform in self.transforms:
            credit = checked(transform(credit, ctx), batch, type(transform).__name__, step)
        return credit.replace(advantages=credit.advantages * batch.loss_mask)

    def state_dict(self) -> dict[str, Any]:
        """State of the stateful transforms, by their place in the list."""
        stateful = {str(i): t for i, t in enumerate(self.transforms) if hasattr(t, "state_dict")}
        return {place: transform.state_dict() for place, transform in stateful.items()}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for place, values in state.items():
            self.transforms[int(place)].load_state_dict(values)  # type: ignore[attr-defined]


def checked(credit: Credit, batch: Batch, name: str, step: int) -> Credit:
    """Return the credit if it has the shape and the finite values that it must have."""
    for field in ("advantages", "uncertainty"):
        value = getattr(credit, field)
        if value.shape != batch.loss_mask.shape:
            expected = list(batch.loss_mask.shape)
            raise RunError(
                f"transform {name} returned {field} of shape {list(value.shape)} at step {step}, not {expected}"
            )
        if not bool(value[batch.loss_mask].isfinite().all()):
            raise RunError(f"transform {name} returned {field} that are not finite at step {step}")
    return credit
