"""How one batch is cut into micro-batches: what changes the price of a step, never its gradient.

    rows ── skip those without a gradient ── sort by length ── split ── trim the padding of each part

Each micro-batch carries the weight that makes the weighted sum of TRL's losses the loss of the whole batch: one
denominator per optimiser step, whatever the split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from retrain.estimate import rows_in_a_forward

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool
    from torch import Tensor

TOKEN_NORMALISED = ("cispo", "dapo", "vespo")  # TRL divides by num_items_in_batch, the tokens of the whole batch


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How to cut. Defaults are the cheap ones; the others exist for comparison."""

    micro_batch_size: int  # rows
    trim: bool = True  # cut each micro-batch to its own longest prompt and completion
    sort: bool = True  # by length, so that trimming bites
    skip: bool = True  # leave out rows whose advantages are all zero; needs a loss without KL and auxiliary terms

    @classmethod
    def chosen(cls, *, micro_batch_size: int, max_tokens: int, on_gpu: bool, skip: bool) -> Layout:
        """The layout of a run: `training.micro_batch_size`, or as many rows as fill a forward pass."""
        return cls(micro_batch_size=rows_in_a_forward(micro_batch_size, max_tokens, on_gpu=on_gpu), skip=skip)

    def comparing_everything(self) -> Layout:
        """The same layout with no row left out."""
        return replace(self, skip=False)

    def useful(self, inputs: Mapping[str, Any]) -> Bool[Tensor, " B"]:
        """True on rows that have a gradient."""
        advantages = inputs["advantages"]
        if not self.skip:
            return torch.ones(len(advantages), dtype=torch.bool, device=advantages.device)
        return (advantages != 0).any(dim=1)

    def cut(self, inputs: Mapping[str, Any], loss_type: str) -> list[tuple[dict[str, Any], float]]:
        """Return (micro-batch, weight of its loss) pairs; `inputs` is the dict that TRL's loss reads.

        At least one row is kept: gradients of None instead of 0 would make AdamW skip its momentum and weight decay.
        """
        mask, useful = inputs["completion_mask"], self.useful(inputs)
        length = mask.sum(dim=1)
        rows = useful.nonzero()[:, 0] if bool(useful.any()) else length.argmin()[None]
        if self.sort:
            rows = rows[length[rows].argsort(stable=True)]
        parts = [_rows_of(inputs, index) for index in rows.split(self.micro_batch_size)]
        return [(_trimmed(part) if self.trim else part, _weight(part, mask, loss_type)) for part in parts]


def _rows_of(inputs: Mapping[str, Any], index: Tensor) -> dict[str, Any]:
    return {name: value[index] if torch.is_tensor(value) and value.dim() else value for name, value in inputs.items()}


def _trimmed(part: dict[str, Any]) -> dict[str, Any]:
    """Drop the columns that are padding in every row: prompts are padded on the left, completions on the right."""
    left = part["prompt_mask"].shape[1] - int(part["prompt_mask"].sum(dim=1).max())
    right = max(1, int(part["completion_mask"].sum(dim=1).max()))
    cut = dict(part)
    for name, value in part.items():
        if torch.is_tensor(value) and value.dim() == 2:
            cut[name] = value[:, left:] if name.startswith("prompt") else value[:, :right]
    return cut


def _weight(part: Mapping[str, Any], mask: Tensor, loss_type: str) -> float:
    if loss_type == "bnpo":  # TRL divides by the micro-batch's own tokens
        return int(part["completion_mask"].sum()) / max(1, int(mask.sum()))
    if loss_type in TOKEN_NORMALISED:
        return 1.0
    return len(part["completion_mask"]) / len(mask)  # grpo, dr_grpo, luspo, sapo: a mean over the micro-batch's rows
