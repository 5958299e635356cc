"""Planning tokens: those with which a completion says what it is going to do next, such as "wait, let me check".

    sampled ids ── bytes of each token ──▶ text ── detector ──▶ ranges of characters ──▶ the tokens that overlap them

A detector sees decoded texts alone and returns, for each, the ranges [start, end) of its planning phrases. Finding the
tokens is done here, so a detector never meets a tokenizer, and a word that is split over tokens is found all the same.
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import torch

from retrain import registry
from retrain.advantages.grams import GRAMS
from retrain.advantages.offsets import TokenBytes, raw_text, shown_text
from retrain.errors import ConfigError, Problem, RetrainError, RunError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool
    from torch import Tensor

    from retrain.config.schema import Planning
    from retrain.types import Detector, Tokenizer

Ranges = Sequence[tuple[int, int]]
"""Characters [start, end) of one text, in any order; they may overlap."""

KEY = "planning.strategic_grams"
BETWEEN_WORDS = r"[\s,.;:!?…()'\"‘’“”*_~\-‐‑–—]+"
APOSTROPHE = "['’‘ʼ＇]"
LETTER = r"[^\W_]"  # or a digit


@dataclass
class RegexDetector:
    """Find phrases whatever their case; none given: the built-in eighteen (`retrain.advantages.grams`).

    Words may be separated by any whitespace, hyphens and punctuation ("Wait. Let me", "double-check"), every apostrophe
    is one, and a phrase begins and ends at a word's boundary. Phrases are literal text, not patterns.

    Raises:
        ConfigError: a phrase is empty or blank.
    """

    strategic_grams: Sequence[str] = ()
    pattern: re.Pattern[str] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        blank = [place for place, gram in enumerate(self.strategic_grams, 1) if not gram.strip()]
        if blank:
            message = f"{KEY}[{blank[0]}] is blank"
            raise ConfigError(Problem(message=message, hint="remove it; [] stands for the built-in list", key=KEY))
        longest_first = sorted(self.strategic_grams or GRAMS, key=len, reverse=True)
        bounded = [_phrase(gram) for gram in longest_first if _ends_a_word(gram.strip()[0])]
        free = [_phrase(gram) for gram in longest_first if not _ends_a_word(gram.strip()[0])]
        at_a_word = (
            [f"(?<!{LETTER})(?:{'|'.join(bounded)})"] if bounded else []
        )  # once for all: it is four times faster
        # A lookahead consumes nothing, so phrases that share words ("wait let me check") are all found.
        self.pattern = re.compile(f"(?=({'|'.join([*at_a_word, *free])}))", re.IGNORECASE)

    def __call__(self, texts: Sequence[str]) -> list[Ranges]:
        return [[match.span(1) for match in self.pattern.finditer(text)] for text in texts]


def _phrase(gram: str) -> str:
    """Return the pattern of a phrase from its first character to where its last word ends."""
    words = re.split(r"\s+|(?<=\w)[-‐‑](?=\w)", gram.strip())
    body = BETWEEN_WORDS.join(re.sub(APOSTROPHE, APOSTROPHE, re.escape(word)) for word in words)
    return f"{body}(?!{LETTER})" if _ends_a_word(gram.strip()[-1]) else body


def _ends_a_word(char: str) -> bool:
    """Tell letters and digits from the rest; scripts of wide characters put no spaces between words."""
    return char.isalnum() and east_asian_width(char) not in "WF"


class PlanningTokens:
    """Mark the tokens of every completion that overlap a planning phrase.

    A token is marked if and only if it wrote part of a character of a phrase: " let" belongs to "let me", the space
    that a token before the phrase ends in does not, and special tokens, which write nothing, never do.
    """

    def __init__(self, detector: Detector, tokenizer: Tokenizer, *, name: str = "regex") -> None:
        self.name = name
        self._detector = detector
        self._bytes = TokenBytes(tokenizer)

    def __call__(self, completions: Sequence[Sequence[int]], *, width: int, step: int) -> Bool[Tensor, "B T"]:
        """Return the mask of B completions, T = `width` tokens wide, False beyond the end of each.

        Raises:
            RunError: the detector failed or returned something else than ranges within the texts.
        """
        written = [self._bytes(token_ids) for token_ids in completions]
        raw = [raw_text(b"".join(pieces)) for pieces in written]
        found = self._ranges([shown_text(text) for text in raw], step)
        mask = torch.zeros(len(completions), width, dtype=torch.bool)
        for row, (pieces, text, ranges) in enumerate(zip(written, raw, found, strict=True)):
            mask[row, _overlapping(pieces, text, ranges)] = True
        return mask

    def _ranges(self, texts: list[str], step: int) -> list[Ranges]:
        label = f"planning detector {self.name}"
        try:
            found = list(self._detector(texts))
        except RetrainError:
            raise
        except Exception as error:  # a plugin may fail in any way
            raise RunError(f"{label} failed at step {step}: {type(error).__name__}: {error}") from error
        if len(found) != len(texts):
            raise RunError(f"{label} returned {len(found)} lists of ranges for {len(texts)} texts at step {step}")
        return [self._checked(ranges, len(text), step) for ranges, text in zip(found, texts, strict=True)]

    def _checked(self, ranges: Any, length: int, step: int) -> Ranges:
        try:
            pairs = [(index(start), index(end)) for start, end in ranges]
        except (TypeError, ValueError) as error:
            what = "a list of pairs (start, end) of whole numbers for each text is needed"
            raise RunError(f"planning detector {self.name} returned {ranges!r} at step {step}; {what}") from error
        for start, end in pairs:
            if not 0 <= start <= end <= length:
                message = f"planning detector {self.name} returned the range ({start}, {end}) at step {step}"
                raise RunError(f"{message}, in a text of {length} characters")
        return pairs


def _overlapping(pieces: Sequence[bytes], raw: str, ranges: Ranges) -> list[int]:
    """Return the places of tokens that wrote a byte of a character within the ranges."""
    ends = list(accumulate(map(len, pieces)))
    bytes_before = _bytes_before(raw, {place for pair in ranges for place in pair})
    places: list[int] = []
    for start, end in ranges:
        if start < end:
            first, last = bisect_right(ends, bytes_before[start]), bisect_left(ends, bytes_before[end])
            places += [place for place in range(first, last + 1) if pieces[place]]
    return places


def _bytes_before(raw: str, places: Iterable[int]) -> dict[int, int]:
    """Count the bytes before each of some characters, in one pass over the text."""
    total, last, found = 0, 0, {}
    for place in sorted(places):
        total += len(raw[last:place].encode("utf-8", "surrogateescape"))
        last, found[place] = place, total
    return found


def build(planning: Planning, tokenizer: Tokenizer, places: Sequence[Path]) -> PlanningTokens:
    """Make what `planning.detector` names; a class gets those keys of [planning] that it has fields for."""
    made: Any = registry.resolve("detector", planning.detector, places=places)
    if isinstance(made, type):
        fields = dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
        known = [f.name for f in fields if f.init and f.name != "detector" and hasattr(planning, f.name)]
        made = made(**{name: getattr(planning, name) for name in known})
    return PlanningTokens(made, tokenizer, name=planning.detector)
