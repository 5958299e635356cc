"""What a completion looks like token by token: which characters are whose, and how much each token counts.

The text of a token is found by decoding, with the tokenizer that the run saved; nothing is encoded again. A character
that is split over tokens (an emoji, say) belongs to the first of them.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    Decode = Callable[[Sequence[int]], str]

WINDOW = 32  # tokens decoded together at most, beside their context: the cost of a completion stays linear
CONTEXT = 8  # tokens before a window, for tokenizers that write a first token in another way
JOINERS = "\u200c\u200d"  # invisible, and part of emoji and of scripts


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some characters of a completion and the tokens they come from: `count` of them, from `first` on.

    More than one token where a later one adds no character of its own.
    """

    text: str
    first: int
    count: int

    def value(self, values: Sequence[Any] | None) -> Any:
        """Return what a column says of the first token; None where it says nothing."""
        return values[self.first] if values and self.first < len(values) else None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A row of the parquet file and its pieces; None: nothing tells how its text is made of tokens."""

    row: Mapping[str, Any]
    pieces: Sequence[Piece] | None


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a column becomes a colour: value / top, cut at ±1."""

    column: str
    top: float

    @property
    def name(self) -> str:
        return "advantage" if self.column == "advantages" else self.column

    def share(self, value: float | None) -> float:
        """Return a number in [-1, 1]; 0 for what is not there, and for what is too small to tell from 0."""
        if value is None or self.top <= 0:
            return 0.0
        share = max(-1.0, min(1.0, value / self.top))
        return share if abs(share) >= 0.02 else 0.0


def finite(values: Sequence[float | None] | None) -> list[float]:
    return [value for value in values or () if value is not None and math.isfinite(value)]


def advantage_scale(rows: Iterable[Mapping[str, Any]]) -> Scale:
    """Return a scale whose end is the largest |advantage| of all rows of the step."""
    return Scale(column="advantages", top=max((abs(a) for row in rows for a in finite(row["advantages"])), default=0.0))


def uncertainty_scale(rows: Iterable[Mapping[str, Any]]) -> Scale | None:
    """Return a scale whose end is the 99th percentile of the step: one surprise must not dim all the rest.

    None: no row has an uncertainty.
    """
    values = sorted(value for row in rows for value in finite(row["uncertainty"]))
    if not values:
        return None
    return Scale(column="uncertainty", top=values[math.ceil(0.99 * len(values)) - 1] or values[-1])


# --- the tokenizer --------------------------------------------------------------------------------------------------


def load_decode(run_dir: Path) -> tuple[Decode | None, str]:
    """Return what turns token ids into text with special tokens kept, or None and the reason why there is none."""
    checkpoints = sorted(run_dir.glob("checkpoints/step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    folders = [run_dir / "adapter", run_dir / "model", *reversed(checkpoints)]
    file = next((found for folder in folders if (found := folder / "tokenizer.json").is_file()), None)
    if file is None:
        return None, f"no tokenizer.json in {run_dir}: a run saves it with its first checkpoint"
    if find_spec("tokenizers") is None:
        return None, 'the package tokenizers is not installed here; pip install "retrain[local]"'
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001  the library raises nothing more precise
        return None, f"{file} cannot be read: {error}"
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False), ""


def split(decode: Decode, ids: Sequence[int]) -> list[Piece]:
    """Cut the text of a completion into the pieces of its tokens; joined, they are the decoded text.

    Character k is the first token's after which every longer prefix has more than k characters. Unfinished characters
    decode to U+FFFD: one for all their bytes, or one for each, which later tokens take back.
    """
    text = decode(ids)
    lengths = list(_prefix_lengths(decode, ids))
    if lengths and lengths[-1] != len(text):  # the window was too short for this tokenizer: all prefixes, slowly
        lengths = [len(decode(ids[: end + 1])) for end in range(len(ids))]
    for index in range(len(lengths) - 2, -1, -1):
        lengths[index] = min(lengths[index], lengths[index + 1])
    found: list[Piece] = []
    start = 0
    for index, end in enumerate(lengths):
        if end > start or not found:
            found.append(Piece(text=text[start:end], first=index, count=1))
        else:
            last = found[-1]
            found[-1] = Piece(text=last.text, first=last.first, count=last.count + 1)
        start = end
    return found


def _prefix_lengths(decode: Decode, ids: Sequence[int]) -> Iterator[int]:
    """Yield the characters of every prefix, decoding a window around its end only."""
    begin, settled = 0, 0  # the window's first token; the characters before what its decoding starts with
    for end in range(1, len(ids) + 1):
        shown = decode(ids[begin:end])
        yield settled + len(shown)
        if end - begin >= CONTEXT + WINDOW and not shown.endswith("\ufffd"):
            length = settled + len(shown)
            begin = end - CONTEXT
            settled = length - len(decode(ids[begin:end]))


# --- text that does no harm -----------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Return text in which control characters are signs that are seen: none moves a cursor or turns the writing."""
    if text.isprintable():
        return text
    return "".join(_sign(char) for char in text)


def _sign(char: str) -> str:
    if char.isprintable() or char in "\n\t" or char in JOINERS:
        return char
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\u{{{ord(char):x}}}"
    return char  # spaces of other widths; unassigned and private ones, for which a terminal has its own sign
