"""Whether weights have changed, for the price of reading them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int
    from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


def bit_sums(tensors: Sequence[Tensor]) -> Int[Tensor, " P"]:
    """Add up the bits of each tensor. Fused optimisers change weights without torch's own counters noticing."""
    sums = [t.detach().view(INTEGERS[t.element_size()]).sum(dtype=torch.int64) for t in tensors]
    return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.int64)
