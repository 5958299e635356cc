"""The words of a command line: each argument, a flag together with its value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.config import values
from retrain.config.names import FLAGS, OTHER_FLAGS
from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

MULTIRUN = ("--multirun", "-m")
"""What lets overrides name several values."""


def words(arguments: Sequence[str]) -> list[list[str]]:
    """Return the arguments, each flag together with the value that follows it (as `retrain.config.arguments`)."""
    rest, found = list(arguments), []
    while rest:
        word = [rest.pop(0)]
        if takes_next(word[0], rest):
            word.append(rest.pop(0))
        found.append(word)
    return found


def takes_next(name: str, rest: Sequence[str]) -> bool:
    """Tell whether a flag of a config takes the next word for its value."""
    if not rest or not (name in FLAGS or name in OTHER_FLAGS):
        return False
    if name in FLAGS and values.base_type(KEYS[FLAGS[name]]) is bool:
        return rest[0].lower() in {"true", "false"}
    return not rest[0].startswith("--")


def setting(word: Sequence[str]) -> tuple[str, str]:
    """Return what a word sets and the text that it gives: ``("training.lr", "1e-5")``.

    ``~backend.options.threads`` sets "~backend.options.threads" to nothing.
    """
    name, equals, text = word[0].partition("=")
    if word[0].startswith("-"):
        text = word[1] if len(word) > 1 else text if equals else "true"
        if name == "--backend-opt":
            entry, _, text = text.partition("=")
            return f"backend.options.{entry}", text
        return FLAGS.get(name, name), text
    return name.strip().lstrip("+"), text
