"""The gradient of a batch, micro-batch by micro-batch; smaller ones when they do not fit into memory.

Out of memory costs an attempt, never a step: what was accumulated is dropped, random numbers go back to where they
were, the micro-batch is halved, and the whole batch is computed again. The gradient is the same within rounding,
because `Layout` gives every micro-batch its weight. (With dropout the masks differ, as they do between any two splits.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from retrain.errors import RunError
from retrain.events import Diagnosed
from retrain.training_state import random_state, restore_random_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from retrain.layout import Layout

    Loss = Callable[[dict[str, Any]], Tensor]


class Accumulator:
    """Adds up gradients.

    layout:  how a batch is cut; its micro-batch size is what fits
    tokens:  trained tokens of each micro-batch since the last `take_tokens`
    """

    def __init__(
        self,
        layout: Layout,
        *,
        loss_type: str,
        backward: Callable[[Tensor], None],
        forget: Callable[[], None],
        diagnose: Callable[[Diagnosed], None],
        beat: Callable[[], None],
    ) -> None:
        """Make one.

        forget:   drops all gradients, and what the loss has measured
        diagnose: told of every halving
        beat:     called with every micro-batch
        """
        self.layout, self.tokens = layout, list[float]()
        self._loss_type, self._backward, self._forget = loss_type, backward, forget
        self._diagnose, self._beat = diagnose, beat

    def gradient(self, batch: Mapping[str, Any], loss: Loss, *, step: int, whole: bool) -> Tensor:
        """Accumulate the gradient of a batch and return its loss.

        whole: leave no row out, also those without a gradient

        Raises:
            RunError: a single completion does not fit into memory.
        """
        before = random_state()
        while True:
            value = self._attempt(batch, loss, self.layout.comparing_everything() if whole else self.layout)
            if value is not None:
                return value
            self._halve(len(batch["completion_mask"]), step)
            restore_random_state(before)

    def try_worst_case(self, batch: Mapping[str, Any], loss: Loss, *, prompt: int, completion: int, step: int) -> None:
        """Compute, and drop, the gradient of one micro-batch of the longest rows there may be, in tokens.

        Out of memory in hour three is found in minute one. Nothing that training reads is changed.

        Raises:
            RunError: a single completion does not fit into memory.
        """
        before = random_state()
        while True:
            num_rows = min(self.layout.micro_batch_size, len(batch["completion_mask"]))
            value = self._attempt(rows_like(batch, num_rows, prompt, completion), loss, self.layout)
            if value is not None:
                break
            self._halve(num_rows, step)
        del value
        self._drop()
        restore_random_state(before)

    def take_tokens(self) -> list[float]:
        """Return the trained tokens of each micro-batch, and count from none again."""
        taken, self.tokens = self.tokens, []
        return taken

    def _attempt(self, batch: Mapping[str, Any], loss: Loss, layout: Layout) -> Tensor | None:
        """Return the loss of the batch; None when memory did not suffice. By then nothing of the attempt is held."""
        parts: list[Tensor] = []
        try:
            for micro, weight in layout.cut(batch, self._loss_type):
                self._beat()
                self.tokens.append(float(micro["completion_mask"].sum()))
                part = loss(micro) * weight
                self._backward(part)
                parts.append(part.detach())
            return sum(parts[1:], start=parts[0])
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not should_reduce_batch_size(error):
                raise
        self._drop()
        return None

    def _drop(self) -> None:
        self._forget()
        self.tokens = []
        clear_device_cache(garbage_collection=True)

    def _halve(self, num_rows: int, step: int) -> None:
        size = min(self.layout.micro_batch_size, num_rows)
        if size == 1:
            raise RunError(
                f"step {step + 1}: out of memory with a single completion in a micro-batch",
                'a smaller training.max_tokens, training.gradient_checkpointing = "on" or inference.weights = "shared"',
            )
        smaller = (size + 1) // 2
        self.layout = replace(self.layout, micro_batch_size=smaller)
        self._diagnose(
            Diagnosed(
                rule="out_of_memory",
                step=step,
                message=f"out of memory with {size} completions in a micro-batch; from here on {smaller}",
                hint=f"--micro-batch-size {smaller} saves the attempt; the gradient is the same",
                evidence={"before": float(size), "after": float(smaller)},
            )
        )


def rows_like(batch: Mapping[str, Any], num_rows: int, prompt: int, completion: int) -> dict[str, Any]:
    """Return rows of the given lengths, as TRL's loss reads them: every token 0, every advantage 1."""

    def resized(name: str, value: Any) -> Any:
        if not torch.is_tensor(value) or not value.dim():
            return value
        if value.dim() == 1:
            return value.new_ones(num_rows)
        ones = name.endswith("mask") or name == "advantages"
        return value.new_full((num_rows, prompt if name.startswith("prompt") else completion), int(ones))

    made = {name: resized(name, value) for name, value in batch.items()}
    return made | {"num_items_in_batch": made["completion_mask"].sum()}
