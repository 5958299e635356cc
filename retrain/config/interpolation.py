"""``${section.key}`` and ``${oc.env:NAME}`` inside values: found, explained when they fail, written back.

OmegaConf resolves them. ``\\${`` stands for the characters themselves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from retrain.config import values
from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omegaconf import DictConfig

    from retrain.config.origins import Layer, Origin
    from retrain.errors import Problem

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")
_LITERAL = re.compile(r"(\\*)\$\{")


def has_interpolation(value: Any) -> bool:
    """Tell whether a value, or anything inside it, is replaced when it is resolved."""
    return any(values.interpolates(text) for _, text in _texts("", value))


def _texts(dotted: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield dotted, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(f"{dotted}.{name}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(dotted, item)


def unreadable(layers: Sequence[Layer]) -> list[Problem]:
    """Return a problem for each ``${`` that begins no interpolation."""
    return [problem for layer in layers for dotted in layer.values for problem in _unreadable(layer, dotted)]


def _unreadable(layer: Layer, dotted: str) -> Iterator[Problem]:
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    for place, text in _texts(dotted, layer.values[dotted]):
        try:
            if values.interpolates(text):
                parse(text)
        except GrammarParseError:
            origin = layer.origins.get(place, layer.origins[dotted])
            message = f"{place} = {values.show(text, place)} has a ${{ that begins no interpolation"
            yield origin.problem(message, "for the characters themselves write \\${", place)


def unresolvable(merged: DictConfig, written: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """Return a problem for each interpolation that has no result, or one that its key does not take."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    problems = []
    for dotted, value in written.items():
        if not has_interpolation(value):
            continue
        section, _, name = dotted.partition(".")
        try:
            found = merged[section][name]
            if isinstance(value, dict | list):
                OmegaConf.to_container(found, resolve=True)
        except (OmegaConfBaseException, RecursionError) as error:
            problems.append(_explain(dotted, value, origins[dotted], error))
    return problems


def _explain(dotted: str, value: Any, origin: Origin, error: Exception) -> Problem:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    what, hint = f": {text}", "check the interpolation"
    if found := re.search(r"Environment variable '([^']*)' not found", text):
        what = f": the environment variable {found[1]} is not set"
        hint = f"export {found[1]}=… , or put it into .env"
    elif found := re.search(r"Interpolation key '([^']*)' not found", text):
        what, hint = f": there is no key {found[1]}", "write ${section.key}"
    elif isinstance(error, RecursionError) or "ecursive" in text:
        what, hint = " leads back to itself", "write a value at one place of the circle"
    elif type(error).__name__ == "InterpolationValidationError":
        what = f": what it stands for does not fit, {values.needed(KEYS[dotted])} is needed"
        hint = "check what it refers to"
    return origin.problem(f"{dotted} = {values.show(value, dotted)}{what}", hint, dotted)


def rerunnable(written: Any, value: Any, all_written: Mapping[str, Any]) -> Any:
    """Return how to write a resolved value into a TOML that runs again.

    Args:
        written: the value before it was resolved.
        value: the value after.
        all_written: every key's value before it was resolved.

    Returns:
        What was written where that needs the environment, so that no secret is stored; else the plain value.
    """
    if isinstance(value, dict):
        return {name: rerunnable(written[name], item, all_written) for name, item in value.items()}
    if isinstance(value, list) and isinstance(written, list):
        return [rerunnable(before, after, all_written) for before, after in zip(written, value, strict=True)]
    if values.interpolates(written) and _needs_environment(written, all_written):
        return written
    return escape(value)


def _needs_environment(written: str, all_written: Mapping[str, Any]) -> bool:
    """Tell whether an interpolation reads the environment or calls another resolver, at first hand or through keys.

    What cannot be followed (relative keys, entries of tables) counts too: written back as it is, it gives the same.
    """
    seen: set[str] = set()
    waiting = [written]
    while waiting:
        text = _ESCAPED.sub("", waiting.pop())
        names = set(_REFERENCE.findall(text))
        if "${" in _REFERENCE.sub("", text) or not names <= set(all_written):
            return True
        for name in names - seen:
            waiting += [inner for _, inner in _texts(name, all_written[name]) if values.interpolates(inner)]
        seen |= names
    return False


def escape(value: Any) -> Any:
    """Return a value in which every ``${`` stands for itself: backslashes before it are doubled, then one is added."""
    if isinstance(value, dict):
        return {name: escape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return _LITERAL.sub(r"\1\1\\${", value) if isinstance(value, str) else value
