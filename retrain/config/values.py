"""One value against one key: is it of the key's type and in its range, and what would be?

TOML is typed, so nothing is converted here: ``"8"`` is text, 8 is a whole number, and only a whole number may stand
where a number is needed. Text with ``${…}`` is an interpolation, whose result is checked after it is resolved.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_origin

from retrain import registry
from retrain.config.origins import Origin
from retrain.config.secrets import literal_secrets, mask
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from retrain.config.keys import Key

INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
"""A ``${`` that is not escaped: preceded by an even number of backslashes."""

_NEEDED = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a value, and what could stand there; `fix` says how to get from one to the other."""

    what: str
    instead: Any = None
    fix: str = "try"


def interpolates(value: Any) -> bool:
    """Tell whether a value is text that OmegaConf replaces by something else."""
    return isinstance(value, str) and bool(INTERPOLATION.search(value))


def base_type(key: Key) -> type:
    """Return str, int, float, bool, list or dict."""
    return get_origin(key.type) or key.type


def item_type(key: Key) -> Any:
    """Return the type of a list's items or of a table's values; Any where they are free."""
    return get_args(key.type)[-1]


def holds_tables(key: Key) -> bool:
    """Tell whether a list's items are tables."""
    return get_origin(item_type(key)) is dict


def show(value: Any, key: str = "") -> str:
    """Return a value as TOML writes it, on one line, without secrets."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        text = f"[{', '.join(show(item, key) for item in value)}]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{name} = {show(item, name)}" for name, item in value.items()) + "}"
    elif isinstance(value, str):
        text = json.dumps(mask(value, key), ensure_ascii=False)
    else:
        text = mask(value, key)
    return text if len(text) <= 100 else f"{text[:97]}..."


def needed(key: Key) -> str:
    """Say what a key takes: "a whole number of at least 2"."""
    kind = _NEEDED[base_type(key)]
    if base_type(key) is list:
        kind = {str: "a list of texts", int: "a list of whole numbers"}.get(item_type(key), "a list of tables")
    low, above, high = (_bound(bound) for bound in (key.low, key.above, key.high))
    if low and high:
        return f"{kind} from {low} to {high}"
    bounds = [f"of at least {low}" if low else "", f"above {above}" if above else "", f"up to {high}" if high else ""]
    return " ".join([kind, " and ".join(filter(None, bounds))]).strip()


def _bound(bound: float | None) -> str:
    return "" if bound is None else str(int(bound) if float(bound).is_integer() else bound)


def problems(key: Key, value: Any, origin: Origin, places: Sequence[Path]) -> list[Problem]:
    """Return what is wrong with a value as written; nothing when it is fine, or known only when it is resolved."""
    secrets = literal_secrets(key.name if key.secret else "", value, secret=key.secret)
    found = [_secret(key, name.removeprefix("."), origin) for name in secrets]
    if interpolates(value) or (found and key.secret):
        return found
    return found + resolved_problems(key, value, origin, places)


def resolved_problems(key: Key, value: Any, origin: Origin, places: Sequence[Path]) -> list[Problem]:
    """Return what is wrong with a value: its type, its range, or a name that is in no table."""
    fault = find_fault(key, value)
    if fault is not None:
        hint = fault.fix
        if fault.instead is not None:
            hint = f"{fault.fix} {origin.assignment(key.dotted, show(fault.instead))}"
        return [origin.problem(f"{key.dotted} = {show(value, key.dotted)} {fault.what}", hint, key.dotted)]
    if key.choices and value not in key.choices:
        near = nearest(value, key.choices)
        question = f'; did you mean "{near}"?' if near else ""
        message = f"{key.dotted} = {show(value)} is not one of its choices{question}"
        return [origin.problem(message, f"one of {', '.join(key.choices)}", key.dotted)]
    if key.registry and value != key.default:
        at = origin.problem("")
        found = registry.check(key.registry, value, places=places, file=at.file, line=at.line, key=key.dotted)
        return [replace(found, topic=at.topic)] if found else []
    return []


def _secret(key: Key, entry: str, origin: Origin) -> Problem:
    dotted = key.dotted if key.secret else f"{key.dotted}.{entry}"
    variable = re.sub(r"\W+", "_", entry.rpartition(".")[2] or key.name).upper()
    message = f"{dotted} is a secret, and is written out here"
    shown = Origin(kind=origin.kind, file=origin.file, line=origin.line, text=origin.text if origin.file else dotted)
    hint = f'put it into the environment or .env, then write {dotted.rpartition(".")[2]} = "${{oc.env:{variable}}}"'
    return shown.problem(message, hint, dotted)


def find_fault(key: Key, value: Any) -> Fault | None:
    """Check type, range and finiteness."""
    if value == "???":  # OmegaConf's mark of a missing value, which would silently leave the default
        return Fault("is a placeholder, not a value", key.default or None, fix="write the value, such as")
    return _CHECKS[base_type(key)](key, value)


def _bool_fault(key: Key, value: Any) -> Fault | None:
    if isinstance(value, bool):
        return None
    meant = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
    if meant is not None:
        return Fault("is text; true or false is needed", meant, fix="drop the quotes:")
    return Fault(f"is {kind_of(value)}; true or false is needed", key.default)


def _text_fault(key: Key, value: Any) -> Fault | None:
    if isinstance(value, str):
        return None
    if isinstance(value, bool | int | float):
        return Fault(f"is {kind_of(value)}; text is needed", show(value), fix="in quotes:")
    return Fault(
        f"is {kind_of(value)}; text is needed", key.default or None, fix="such as" if key.default else "write one text"
    )


def kind_of(value: Any) -> str:
    """Name the type of a TOML value."""
    if isinstance(value, str):
        return "text" if value else "empty"
    for kind, name in (
        (bool, "a truth value"),
        (int, "a whole number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "a table"),
    ):
        if isinstance(value, kind):
            return name
    return "a date or time"


def _number_fault(key: Key, value: Any) -> Fault | None:
    whole = base_type(key) is int
    if isinstance(value, str):
        return _number_as_text(key, value, whole=whole)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Fault(f"is {kind_of(value)}; {needed(key)} is needed", key.default)
    if not math.isfinite(value):
        return Fault(f"is not finite; {needed(key)} is needed", key.default)
    if whole and isinstance(value, float):
        return Fault(
            f"is not whole; {needed(key)} is needed", int(value) if _in_range(key, int(value)) else key.default
        )
    return None if _in_range(key, value) else Fault(f"is out of range; {needed(key)} is needed", _closest(key, value))


def _number_as_text(key: Key, text: str, *, whole: bool) -> Fault:
    try:
        number = float(text)
    except ValueError:
        return Fault(f"is {kind_of(text)}; {needed(key)} is needed", key.default)
    if not _in_range(key, number) or (whole and not number.is_integer()):
        return Fault(f"is text; {needed(key)} is needed", key.default)
    return Fault(
        f"is text; {_NEEDED[base_type(key)]} is needed", int(number) if whole else number, fix="drop the quotes:"
    )


def _in_range(key: Key, value: float) -> bool:
    return (
        math.isfinite(value)
        and (key.low is None or value >= key.low)
        and (key.high is None or value <= key.high)
        and (key.above is None or value > key.above)
    )


def _closest(key: Key, value: float) -> Any:
    """Return the bound that was crossed, or the default where that bound itself is not allowed."""
    bound = key.low if key.low is not None and value < key.low else key.high
    if bound is None or not _in_range(key, bound):
        return key.default
    return int(bound) if base_type(key) is int else bound


def _list_fault(key: Key, value: Any) -> Fault | None:
    if holds_tables(key):
        return _tables_fault(key, value)
    if item_type(key) is int:
        return _numbers_fault(key, value)
    if not isinstance(value, list):
        example = [value] if isinstance(value, str) and value else ["text"]
        return Fault(f"is {kind_of(value)}; {needed(key)} is needed", example)
    wrong = next((item for item in value if not isinstance(item, str)), None)
    if wrong is not None:
        return Fault(
            f"holds {kind_of(wrong)}; {needed(key)} is needed", [show(wrong) if isinstance(wrong, int) else "text"]
        )
    return Fault("holds a placeholder, not a value", fix="write the value") if "???" in value else None


def _numbers_fault(key: Key, value: Any) -> Fault | None:
    if not isinstance(value, list):
        return Fault(f"is {kind_of(value)}; {needed(key)} is needed", [value] if type(value) is int else [1, 2, 3])
    wrong = next((item for item in value if type(item) is not int or not _in_range(key, item)), None)
    return None if wrong is None else Fault(f"holds {show(wrong)}; {needed(key)} is needed", key.default)


def _tables_fault(key: Key, value: Any) -> Fault | None:
    if not isinstance(value, list):
        return Fault(f"is {kind_of(value)}; {needed(key)} is needed", [{"name": "gtpo"}])
    wrong = next((item for item in value if not isinstance(item, dict)), None)
    if wrong is not None:
        return Fault(f"holds {kind_of(wrong)}; {needed(key)} is needed", [{"name": "gtpo"}])
    return next(filter(None, (_entries_fault(item, Any) for item in value)), None)


def _table_fault(key: Key, value: Any) -> Fault | None:
    if not isinstance(value, dict):
        return Fault(f"is {kind_of(value)}; a table is needed", fix=f"write it as a section of its own: [{key.dotted}]")
    return _entries_fault(value, item_type(key))


def _entries_fault(entries: dict[str, Any], wanted: Any, path: str = "") -> Fault | None:
    faults = (_entry_fault(f"{path}{name}", item, wanted) for name, item in entries.items())
    return next(filter(None, faults), None)


def _entry_fault(path: str, item: Any, wanted: Any) -> Fault | None:
    if wanted is str and not isinstance(item, str):
        return Fault(f"has {path} = {show(item)}; text is needed", fix=f'write {path} = "{show(item)}"')
    if isinstance(item, dict):
        return _entries_fault(item, wanted, f"{path}.")
    if isinstance(item, list):
        return next(filter(None, (_entry_fault(path, entry, wanted) for entry in item)), None)
    if isinstance(item, float) and not math.isfinite(item):
        return Fault(f"has {path} = {item}, which is not a finite number", fix="write a finite number, or leave it out")
    if item == "???" or not isinstance(item, str | bool | int | float):
        what = "a placeholder" if item == "???" else kind_of(item)
        return Fault(f"has {path} = {item}, {what}", fix="write the value, text in quotes, or leave it out")
    return None


_CHECKS: dict[type, Callable[[Key, Any], Fault | None]] = {
    int: _number_fault,
    float: _number_fault,
    bool: _bool_fault,
    str: _text_fault,
    list: _list_fault,
    dict: _table_fault,
}
