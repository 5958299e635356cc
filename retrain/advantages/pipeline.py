"""From one advantage per completion to one per token: a list of transforms, applied in order.

    Credit ── transform 1 ──▶ Credit ── transform 2 ──▶ … ──▶ Credit      (advantages and uncertainty, [B,T] each)

A transform may rewrite the uncertainty that the next one reads, so the order of the list *is* the algorithm.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch

from retrain import registry
from retrain.advantages import planning
from retrain.advantages.signals import surprisal
from retrain.config.transforms import Planned, asks_for, planned
from retrain.errors import ConfigError, RunError
from retrain.types import AdvantageContext, Credit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jaxtyping import Bool, Float
    from torch import Tensor

    from retrain.config.schema import RunConfig
    from retrain.types import Batch, Signal, Tokenizer, Transform


log = logging.getLogger(__name__)


class TransformPipeline:
    """Apply transforms in order, in float64: a float32 mean over a row changes with the padding beside it."""

    def __init__(
        self,
        transforms: Sequence[Transform],
        *,
        max_steps: int,
        signal: Signal = surprisal,
        planner: planning.PlanningTokens | None = None,
    ) -> None:
        """Make a pipeline.

        signal: what the transforms read as uncertainty
        planner: finds the tokens of planning phrases; None where no transform asks
        """
        self.transforms = tuple(transforms)
        self.max_steps, self.signal, self.planner = max_steps, signal, planner

    def planning_mask(self, batch: Batch, *, step: int) -> Bool[Tensor, "B T"] | None:
        """True on trained tokens of planning phrases; None where no transform asks for it."""
        if self.planner is None:
            return None
        lengths = batch.loss_mask.sum(dim=1).tolist()
        rows = [row[:n] for row, n in zip(batch.completion_ids.tolist(), lengths, strict=True)]
        return self.planner(rows, width=batch.loss_mask.shape[1], step=step) & batch.loss_mask

    def __call__(
        self,
        advantages: Float[Tensor, " B"],
        batch: Batch,
        *,
        planning_mask: Bool[Tensor, "B T"] | None,
        step: int,
        log: Callable[[str, float], None],
    ) -> Credit:
        """Spread each completion's advantage over its trained tokens, then transform.

        Raises:
            RunError: a signal or a transform failed, or returned another shape or values that are not finite.
        """
        ctx = AdvantageContext(batch=batch, planning_mask=planning_mask, step=step, max_steps=self.max_steps, log=log)
        uncertainty = _called(_name(self.signal), step, lambda: self.signal(batch))
        credit = Credit(advantages=advantages.double()[:, None] * batch.loss_mask, uncertainty=uncertainty)
        credit = checked(credit, batch, _name(self.signal), step)
        for transform in self.transforms:
            name, before = _name(transform), credit
            credit = checked(_called(name, step, lambda t=transform, c=before: t(c, ctx)), batch, name, step)
            if transform.keeps_zero_rows:
                _check_zero_rows(before, credit, batch, name, step)
        return credit.replace(advantages=torch.where(batch.loss_mask, credit.advantages, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """State of the stateful transforms, by their place in the list."""
        stateful = {str(i): t for i, t in enumerate(self.transforms) if hasattr(t, "state_dict")}
        return {place: transform.state_dict() for place, transform in stateful.items()}  # type: ignore[attr-defined]  they have it

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for place, values in state.items():
            self.transforms[int(place)].load_state_dict(values)  # type: ignore[attr-defined]  it was saved by one


def _name(part: object) -> str:
    return getattr(part, "__name__", type(part).__name__)


def _called(name: str, step: int, call: Callable[[], Any]) -> Any:
    """Return what a part of the pipeline returns; its failure is the run's, under its name."""
    try:
        return call()
    except RunError:
        raise
    except Exception as error:  # a plugin may fail in any way; ours raise nothing on checked input
        log.exception("%s failed at step %d", name, step)
        raise RunError(f"{name} failed at step {step}: {type(error).__name__}: {error}") from error


def checked(credit: Any, batch: Batch, name: str, step: int) -> Credit:
    """Return the credit if it has the shape and the finite values that it must have; in float64."""
    if not isinstance(credit, Credit):
        raise RunError(f"{name} returned {type(credit).__name__} at step {step}, not a Credit")
    tensors = {}
    for field in ("advantages", "uncertainty"):
        value, expected = getattr(credit, field), list(batch.loss_mask.shape)
        if not isinstance(value, torch.Tensor) or list(value.shape) != expected:
            found = f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise RunError(f"{name} returned {field} of {found} at step {step}, not a tensor of shape {expected}")
        if not value.is_floating_point():
            raise RunError(f"{name} returned {field} of {value.dtype} at step {step}, not floating point numbers")
        if not bool(value[batch.loss_mask].isfinite().all()):
            raise RunError(f"{name} returned {field} that are not finite at step {step}")
        tensors[field] = value.double()
    return Credit(**tensors)


def _check_zero_rows(before: Credit, after: Credit, batch: Batch, name: str, step: int) -> None:
    """Hold a transform to its declaration: completions that had no advantage have none after it."""
    had = ((before.advantages != 0) & batch.loss_mask).any(dim=1)
    has = ((after.advantages != 0) & batch.loss_mask).any(dim=1)
    if bool((has & ~had).any()):
        raise RunError(
            f"{name} declares keeps_zero_rows, but gave completions without advantage one at step {step}",
            "declare keeps_zero_rows = False",
        )


# --- from a config ----------------------------------------------------------------------------------------------


def build(config: RunConfig, tokenizer: Tokenizer, places: Sequence[Path]) -> TransformPipeline:
    """Make the pipeline that a config describes.

    Raises:
        ConfigError: a plugin cannot be imported, is nothing that transforms, or does not take its options.
    """
    steps = planned(config)
    transforms = [transform for step in steps for transform in _made(step, places)]
    asked = asks_for(steps, "planning_mask") or any("planning_mask" in t.requires for t in transforms)
    return TransformPipeline(
        transforms,
        max_steps=config.training.max_steps,
        signal=registry.resolve("signal", config.algorithm.uncertainty_kind, places=places),
        planner=planning.build(config.planning, tokenizer, places) if asked else None,
    )


def _made(step: Planned, places: Sequence[Path]) -> list[Transform]:
    """Make one entry's transforms: a built-in one, or what a plugin's class, function or factory gives."""
    found = registry.resolve("transform", step.name, places=places)
    if step.is_built_in:
        return [found(step.options)]
    if isinstance(found, type):
        return [_completed(registry.made_with(found, step.options, f"transform {step.name}"), step.name)]
    if _is_transform(found):
        if step.options:
            raise ConfigError(f"transform {step.name} is a plain function and takes no options: {list(step.options)}")
        return [_completed(found, step.name)]
    made = registry.made_with(found, step.options, f"transform {step.name}")
    listed = list(made) if isinstance(made, list | tuple) else [made]
    return [_completed(transform, step.name) for transform in listed]


def _is_transform(function: Any) -> bool:
    """Tell a plain transform, which takes a credit and a context, from a factory, whose parameters are options."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind is not p.KEYWORD_ONLY for p in parameters) == 2


DECLARED: dict[str, Any] = {"requires": frozenset(), "scope": "batch", "keeps_zero_rows": False}
"""What a plugin that declares nothing is taken for: the most cautious."""


def _completed(transform: Any, name: str) -> Any:
    """Give a plugin the declarations that it left out."""
    if not callable(transform):
        raise ConfigError(
            f"transform {name} gave {type(transform).__name__}, which cannot be called with (credit, ctx)"
        )
    for declaration, value in DECLARED.items():
        if not hasattr(transform, declaration):
            try:
                setattr(transform, declaration, value)
            except AttributeError as error:
                raise ConfigError(f"transform {name} must declare {declaration}: {error}") from error
    return transform  # with all that the protocol asks for
