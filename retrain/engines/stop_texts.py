"""Find out, token by token, that a completion has just said one of its stop texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Tokenizer

_UNFINISHED = "\ufffd"  # what a tokenizer shows for bytes that are not yet a character
_SLACK = 8  # characters: a tail cut inside a character or a word shows up to 4 wrong ones at its start


class StopTexts:
    """Decides on decoded text, so that a stop text may span tokens or begin and end inside one.

    It looks at a tail just long enough for the longest stop text, and only when the newest token could be the one that
    completes it; that is remembered per token id. It keeps nothing of the completions themselves.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self._texts = tuple(texts)
        self._tokenizer = tokenizer
        self._last = frozenset(text[-1] for text in texts)
        self._longest = max(map(len, texts))
        self._shown: dict[int, str] = {}  # token id -> its text on its own

    def completed_by(self, token_ids: Sequence[int]) -> bool:
        """Tell whether the last token completes a stop text; the tokens before it did not."""
        shown = self._alone(token_ids[-1])
        if not self._could_complete(shown):
            return False
        needed = self._longest + len(shown) + _SLACK
        tail = self._longest + _SLACK
        while True:
            text = self._tokenizer.decode(token_ids[-tail:])
            if tail >= len(token_ids) or len(text) >= needed:
                return any(stop in text for stop in self._texts)
            tail *= 2  # tokens without text of their own, like special ones, lie in between

    def _alone(self, token: int) -> str:
        if token not in self._shown:
            self._shown[token] = self._tokenizer.decode([token])
        return self._shown[token]

    def _could_complete(self, shown: str) -> bool:
        """Some tokenizers drop a space at the start of a text, so a token on its own may hide one."""
        return not shown or _UNFINISHED in shown or " " in self._last or any(char in shown for char in self._last)
