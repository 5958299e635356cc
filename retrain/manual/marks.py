"""Blocks of a topic that the program writes itself, so that they say what it does.

    <!-- generated: names transform -->     name of the block, and its arguments

    | name | … |                            replaced by `retrain man --sync`, compared by `retrain man --check`

    <!-- end generated -->

A mark stands alone on its line, outside of code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGIN = re.compile(r"<!--\s*generated:\s*(\S.*?)\s*-->\s*")
END = re.compile(r"<!--\s*end generated\s*-->\s*")
FENCE = re.compile(r" {0,3}(```|~~~)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One generated part of a topic. first, last: the lines of its marks, 1-based; text: what is between them."""

    name: str
    arguments: tuple[str, ...]
    first: int
    last: int
    text: str

    @property
    def title(self) -> str:
        """Name and arguments, as the mark has them."""
        return " ".join([self.name, *self.arguments])


def outside_code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are no code, with their numbers from 1."""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        found = FENCE.match(line)
        if found and fence in ("", found[1]):
            fence = "" if fence else found[1]
        elif not fence:
            yield number, line


def blocks(text: str, file: str = "") -> list[Block]:
    """Return the generated blocks of a topic, in order.

    Raises:
        ConfigError: marks that do not come in pairs, all of them.
    """
    lines, found, problems = text.splitlines(), list[Block](), list[Problem]()
    begun: tuple[int, list[str]] | None = None
    for number, line in outside_code(text):
        begins, ends = BEGIN.fullmatch(line), END.fullmatch(line)
        if begun and begins:
            problems.append(_unended(begun, file))
        if ends and not begun:
            problems.append(Problem(message="this ends no generated block", hint="remove it", file=file, line=number))
        if ends and begun:
            first, (name, *arguments) = begun
            inside = "\n".join(lines[first : number - 1]).strip("\n")
            found.append(Block(name=name, arguments=tuple(arguments), first=first, last=number, text=inside))
        if begins or ends:
            begun = (number, begins[1].split()) if begins else None
    if begun:
        problems.append(_unended(begun, file))
    if problems:
        raise ConfigError(problems)
    return found


def _unended(begun: tuple[int, list[str]], file: str) -> Problem:
    line, words = begun
    message = f"the generated block {' '.join(words)} has no end"
    return Problem(message=message, hint="add a line <!-- end generated -->", file=file, line=line)


def filled(text: str, generate: Callable[[Block], str], file: str = "") -> tuple[str, list[Block]]:
    """Return a topic with its blocks as they should be, and those that were not.

    Raises:
        ConfigError: as for `blocks`, and what `generate` raises, with the place of the mark.
    """
    lines, stale, problems = text.splitlines(), list[Block](), list[Problem]()
    for block in reversed(blocks(text, file)):
        try:
            made = generate(block)
        except ConfigError as error:
            problems += [replace(problem, file=file, line=block.first) for problem in error.problems]
            continue
        if made != block.text:
            lines[block.first : block.last - 1] = ["", *made.splitlines(), ""]
            stale.insert(0, block)
    if problems:
        raise ConfigError(problems)
    return "\n".join(lines) + "\n" if stale else text, stale


def without_marks(text: str) -> str:
    """Return a topic for the eyes: with its generated text, without the marks."""
    lines = text.splitlines()
    marks = {number for number, line in outside_code(text) if BEGIN.fullmatch(line) or END.fullmatch(line)}
    return "\n".join(line for number, line in enumerate(lines, start=1) if number not in marks) + "\n"
