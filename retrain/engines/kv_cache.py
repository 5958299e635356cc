"""Keys and values of the rows that are still being written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

GROWTH = 1.5  # a full buffer gets this much longer: every token is copied about twice more, memory follows the length


class KvCache:
    """What attention layers call on their cache, with rows that can be copied and dropped.

    Buffers [rows, heads, positions, width] are made once in the model's own number format and filled in place; they
    grow by half when the positions run out, for the rows that are left. `length` counts the positions that every layer
    has; the caller moves it on after each forward pass (`advance`).
    """

    def __init__(self, *, rows: int, positions: int, limit: int) -> None:
        """Plan for `rows` rows of `positions` positions at first, and at most `limit`."""
        self._rows, self._positions, self._limit = rows, positions, limit
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self.length = 0

    def update(
        self, key: Float[Tensor, "N H S W"], value: Float[Tensor, "N H S W"], layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append what a layer computed for the newest positions; return everything it has so far."""
        return self._append(self._keys, key, layer), self._append(self._values, value, layer)

    def _append(self, store: dict[int, Tensor], new: Tensor, layer: int) -> Tensor:
        rows, end = new.shape[0], self.length + new.shape[2]
        buffer = store.get(layer)
        if buffer is None or end > buffer.shape[2]:
            buffer = store[layer] = self._longer(buffer, new, end)
        live = buffer[:rows, :, :end]
        live[:, :, self.length :] = new
        return live

    def _longer(self, old: Tensor | None, new: Tensor, end: int) -> Tensor:
        """Make a buffer with room for `end` positions; drop the rows that have left."""
        rows, heads, _, width = new.shape
        if old is None:
            return new.new_empty(max(rows, self._rows), heads, max(end, self._positions), width)
        positions = max(end, min(self._limit, int(old.shape[2] * GROWTH)))
        longer = old.new_empty(rows, heads, positions, width)
        longer[:, :, : self.length] = old[:rows, :, : self.length]
        return longer

    def advance(self, positions: int) -> None:
        """Count positions that every layer has appended."""
        self.length += positions

    def spread(self, prompts: int, copies: int) -> None:
        """Give each of the first `prompts` rows to `copies` neighbours: row i to rows i·copies … (i+1)·copies - 1."""
        for store in (self._keys, self._values):
            for buffer in store.values():
                prefix = buffer[:prompts, :, : self.length].repeat_interleave(copies, dim=0)
                buffer[: prompts * copies, :, : self.length] = prefix

    def keep(self, index: Int[Tensor, " K"]) -> None:
        """Move the named rows to the front, in order; the others are gone."""
        for store in (self._keys, self._values):
            for buffer in store.values():
                buffer[: len(index), :, : self.length] = buffer[:, :, : self.length].index_select(0, index)

    def get_seq_length(self, *_: Any) -> int:
        """Answer models that ask how much there is."""
        return self.length
