"""Match: the last box holds the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.rewards.boxed import last_boxed
from retrain.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Task


class Match:
    """1 when the last box of the completion equals the reference after trimming, else 0.

    A completion without an answer never matches, not even an empty reference.
    """

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]:
        return [Score(value=float(_matches(text, task.answer))) for text, task in zip(texts, tasks, strict=True)]

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


def _matches(text: str, reference: str) -> bool:
    answer = (last_boxed(text) or "").strip()
    return bool(answer) and answer == reference.strip()
