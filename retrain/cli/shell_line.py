"""A shell's command line as TAB finds it: its words, and how a candidate is written in place of the last one.

    retrain mini.toml 'logging.run_name=my r     words: mini.toml, logging.run_name=my r; a quote is open

bash, zsh and fish agree on what matters here: blanks, single and double quotes, backslashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BLANKS = " \t\n"
WORD_BREAKS = BLANKS + "\"'@><=;|&(:"
"""COMP_WORDBREAKS of bash as it comes."""

OPEN_ENDS = ("=", "/", ".", ",", "@", ":")
"""What ends in one of these goes on: no blank follows. fish has the same rule built in."""

WIDEST_ABOUT = 90  # characters; beside a longer text fish cuts the candidate itself

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PLAIN = re.compile(r"[\w@%+=:,./~-]", re.ASCII)


class Candidate(NamedTuple):
    """What the last word may become, whole and without quotes, and what that means in a line."""

    text: str
    about: str = ""

    @property
    def is_open(self) -> bool:
        """Whether more of the same word follows."""
        return self.text.endswith(OPEN_ENDS)


@dataclass
class Word:
    """One word: as typed, what it stands for, and the quote that is still open at its end ("": none)."""

    raw: str = ""
    text: str = ""
    quote: str = ""


def split(line: str) -> list[Word]:
    """Return the words of a line; the last one is being typed, and empty after a blank."""
    words, word, at = [], Word(), 0
    while at < len(line):
        step = _step(line, at, word.quote)
        if step is None:
            if word.raw:
                words.append(word)
            word, at = Word(), at + 1
            continue
        raw, text, word.quote = step
        word.raw += raw
        word.text += text
        at += len(raw)
    return [*words, word]


def arguments(line: str) -> tuple[list[str], Word]:
    """Return the program's arguments before the last word, and the last word."""
    *before, last = split(line)
    texts = [word.text for word in before]
    while texts and _ASSIGNMENT.match(texts[0]):  # HF_HUB_OFFLINE=1 retrain …
        texts.pop(0)
    return texts[1:], last


def _step(line: str, at: int, quote: str) -> tuple[str, str, str] | None:
    """Read on from a place in a word: what was typed, what it stands for, the quote that is open then; None: a blank.

    In double quotes a backslash is one, unless what follows means something there.
    """
    character = line[at]
    if character == "\\" and quote != "'":
        escaped = line[at + 1 : at + 2]
        return character + escaped, (character if quote and escaped not in '"\\$`' else "") + escaped, quote
    if character == quote:
        return character, "", ""
    if quote:
        return character, character, quote
    if character in "'\"":
        return character, "", character
    return None if character in BLANKS else (character, character, "")


# --- how a shell wants to be told -------------------------------------------------------------------------------------


def for_bash(found: Sequence[Candidate], word: Word, breaks: str = WORD_BREAKS) -> list[str]:
    """Return entries of COMPREPLY: each replaces what stands after the last of bash's word breaks.

    They are quoted, and end in a blank when they are whole. An open quote is closed by bash, and takes no blank.
    """
    typed = _typed_before_break(word, breaks)
    fitting = [one for one in found if one.text.startswith(typed)]
    ends = ["" if one.is_open or word.quote else " " for one in fitting]
    return [_quoted(one.text[len(typed) :], word.quote) + end for one, end in zip(fitting, ends, strict=True)]


def for_zsh(found: Sequence[Candidate], word: Word) -> list[str]:
    """Return how many typed characters to pass over, then ``text<TAB>meaning``: a list shows `maxrl`, not its key."""
    stem = word.text[: max(map(word.text.rfind, "=,/")) + 1] if word.text == word.raw else ""
    return [str(len(stem)), *for_fish([one._replace(text=one.text[len(stem) :]) for one in found])]


def for_fish(found: Sequence[Candidate]) -> list[str]:
    """Return ``text<TAB>meaning``, each text a whole word without quotes."""
    return [f"{one.text}\t{_shortened(one.about)}" if one.about else one.text for one in found]


def _shortened(about: str) -> str:
    return about if len(about) <= WIDEST_ABOUT else f"{about[: WIDEST_ABOUT - 1].rstrip()}…"


def _typed_before_break(word: Word, breaks: str) -> str:
    """Return what bash keeps of a word, without quotes: all up to its last word break, or to the quote that is open."""
    at, quote, text, kept = 0, "", "", ""
    while at < len(word.raw):
        step = _step(word.raw, at, quote)
        assert step is not None, "a word holds no bare blank"
        raw, meant, now_open = step
        text += meant
        if now_open != quote or (not quote and len(raw) == 1 and raw in breaks):
            kept = text.removesuffix("@")  # which begins a word of its own in bash, the name of a host
        at, quote = at + len(raw), now_open
    return kept


def _quoted(text: str, quote: str) -> str:
    """Return a text as it is typed outside of quotes, or inside an open one."""
    if quote == "'":
        return text.replace("'", r"'\''")
    if quote:
        return re.sub(r'(["\\$`])', r"\\\1", text)
    return "".join(c if _PLAIN.match(c) or not c.isascii() else f"\\{c}" for c in text)
