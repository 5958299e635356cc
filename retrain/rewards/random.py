"""Random: a coin, the control that must not learn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from retrain.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Task


class Random:
    """1 or 0 with equal probability, whatever the completion says.

    The coin is the first bit of SHA-256 of (seed, task id, completion): a run repeats exactly, another seed throws
    other coins, and equal completions of a task always score the same. A condition with this reward shows what
    training does without any information, which on some models is more than nothing (arXiv 2506.10947).
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]:
        return [Score(value=self._coin(task.id, text)) for text, task in zip(texts, tasks, strict=True)]

    def _coin(self, task_id: str, text: str) -> float:
        content = f"{self.seed}\0{task_id}\0{text}".encode(errors="surrogatepass")
        return float(hashlib.sha256(content).digest()[0] >> 7)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""
