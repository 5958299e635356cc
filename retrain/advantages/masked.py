"""Sums and means over the tokens that count: by mask, never by "value ≠ 0"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def masked_sum(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, keepdim: bool = False) -> Float[Tensor, " B"]:
    """Sum of each row's tokens under the mask. What lies outside, even NaN, does not count."""
    return torch.where(mask, x, 0.0).sum(dim=1, keepdim=keepdim)


def masked_mean(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, keepdim: bool = False) -> Float[Tensor, " B"]:
    """Mean of each row's tokens under the mask; 0 for a row without any."""
    return masked_sum(x, mask, keepdim=keepdim) / mask.sum(dim=1, keepdim=keepdim).clamp(min=1)


def masked_variance(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Population variance of each row's tokens under the mask; 0 for a row without any."""
    return masked_mean((x - masked_mean(x, mask, keepdim=True)) ** 2, mask)


def group_total(x: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Sum over each row's group, given back to every row of it."""
    return x.new_zeros(int(group_ids.max()) + 1).index_add_(0, group_ids, x)[group_ids]
