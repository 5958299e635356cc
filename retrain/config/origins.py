"""Where values come from: origins, layers of values, and what shadows what.

A *layer* is what one place gives in one go: the body of a TOML, a group file, the command line. Layers are in order,
later ones win. Everything that a run or `explain` says about a value's origin is computed here, from the same layers
that Hydra merges.
"""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from retrain.config.schema import KEYS
from retrain.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value was given.

    >>> str(Origin(kind="file", file="mini.toml", line=7))
    'mini.toml:7'
    """

    kind: Literal["default", "file", "group", "command line", "drawn"]
    file: str = ""
    line: int = 0  # 1-based
    text: str = ""  # command line: the argument as typed, safe to show; drawn: why

    def __str__(self) -> str:
        if self.file:
            return f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.kind}: {self.text}" if self.text else self.kind

    def problem(self, message: str, hint: str = "", key: str = "") -> Problem:
        """Describe what is wrong with a value that was given here."""
        file = self.file or ("" if self.kind == "default" else str(self))
        return Problem(message=message, hint=hint, file=file, line=self.line, key=key, topic="configuration")

    def assignment(self, dotted: str, value: str) -> str:
        """Return what to type here to give a key that value: a TOML line, a flag or an override."""
        if self.kind != "command line":
            return f"{dotted.partition('.')[2] or dotted} = {value}"
        flag = re.match(r"--[\w-]+", self.text)
        plain = shlex.quote(value[1:-1] if value.startswith('"') else value)
        return f"{flag[0]} {plain}" if flag and flag[0] != "--backend-opt" else f"{dotted}={plain}"


DEFAULT = Origin(kind="default")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Values that one place gives.

    values:  dotted schema key → value as written; free-form tables hold their own entries only
    origins: for each of these keys, and for each entry of a free-form table ("backend.options.threads")
    removed: entries that the command line takes out of a free-form table, as paths below the table's key
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    removed: Sequence[tuple[str, tuple[str, ...]]] = ()

    def document(self, *, owned: bool = False) -> dict[str, dict[str, Any]]:
        """Return the values as nested sections; owned tables only when asked, for `owned_below` follows them."""
        sections: dict[str, dict[str, Any]] = {}
        for dotted, value in self.values.items():
            if owned or not KEYS[dotted].owner:
                section, _, name = dotted.partition(".")
                sections.setdefault(section, {})[name] = copy.deepcopy(value)
        return sections


def merge_tables(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Merge free-form tables as OmegaConf does: tables entry by entry, everything else is replaced."""
    merged = dict(low)
    for name, value in high.items():
        under = merged.get(name)
        merged[name] = merge_tables(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def dropped_before(layers: Sequence[Layer], dotted: str) -> int:
    """Return the first layer whose part of an owned key counts.

    For a table that is the last layer that changed its owner, for a list the last one that set its owner at all.
    """
    owner = KEYS[dotted].owner
    is_list = isinstance(KEYS[dotted].default, list)
    first, current = 0, KEYS[owner].default if owner else None
    for index, layer in enumerate(layers):
        if owner in layer.values and (is_list or layer.values[owner] != current):
            first, current = index, layer.values[owner]
    return first


def owned_below(layers: Sequence[Layer], dotted: str) -> Any:
    """Return an owned table or list as all layers but the last leave it; the last may still change its owner."""
    merged = copy.deepcopy(KEYS[dotted].default)
    for layer in layers[dropped_before(layers, dotted) : -1]:
        if dotted in layer.values:
            value = layer.values[dotted]
            merged = merge_tables(merged, value) if isinstance(value, dict) else value
    return merged


def trace(layers: Sequence[Layer]) -> tuple[dict[str, Origin], dict[str, list[tuple[Any, Origin]]]]:
    """Return every key's origin, and what the key would have been without it, nearest first.

    Schema defaults are not listed among the shadowed values. A table's entries have origins of their own; the table
    itself shadows only what a change of its owner dropped.
    """
    current: dict[str, tuple[Any, Origin]] = {}
    shadowed: dict[str, list[tuple[Any, Origin]]] = {}
    starts = {dotted: dropped_before(layers, dotted) for dotted, key in KEYS.items() if key.owner}
    for index, layer in enumerate(layers):
        for dotted, value in layer.values.items():
            if index < starts.get(dotted, 0):
                shadowed.setdefault(dotted, []).insert(0, (value, layer.origins[dotted]))
                continue
            entries = {f"{dotted}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {}
            for place, given in {dotted: value, **entries}.items():
                if place in current and not (entries and place == dotted):
                    shadowed.setdefault(place, []).insert(0, current[place])
                current[place] = (given, layer.origins[place])
        for dotted, path in layer.removed:
            current.pop(".".join([dotted, *path]), None)
    origins = dict.fromkeys(KEYS, DEFAULT) | {place: origin for place, (_, origin) in current.items()}
    return origins, {place: history for place, history in shadowed.items() if place in origins}
