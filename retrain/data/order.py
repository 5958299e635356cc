"""Which tasks a step trains on: a pure function, so that a resumed run and every condition see the same ones."""

from __future__ import annotations

import hashlib
from functools import lru_cache


def task_indices(num_tasks: int, batch_size: int, step: int, seed: int, shuffle: bool) -> list[int]:  # noqa: FBT001  a plain value of the config, as its neighbours are
    """Return the indices of the tasks of a generation step; `step` counts from 0.

    The data are read pass after pass, and batches run on from one pass into the next: position p is in pass
    p // num_tasks, and every pass holds every task once. With `shuffle`, pass k is the permutation that sorts the
    indices i by SHA-256 of (seed, k, i): the same on every machine and in every version of Python.
    """
    first = step * batch_size
    indices = []
    for position in range(first, first + batch_size):
        passes, offset = divmod(position, num_tasks)
        indices.append(_permutation(num_tasks, seed, passes)[offset] if shuffle else offset)
    return indices


@lru_cache(maxsize=2)  # a batch touches one pass or two; a tiny data set more, and is quick to sort again
def _permutation(num_tasks: int, seed: int, passes: int) -> tuple[int, ...]:
    def rank(index: int) -> bytes:
        return hashlib.sha256(f"order {seed} {passes} {index}".encode()).digest()

    return tuple(sorted(range(num_tasks), key=rank))
