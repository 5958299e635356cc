"""TOML files: read with line numbers, explained when they cannot be read, written.

`tomllib` gives values without places. `key_lines` finds the places with a scan of the text, which is enough because
it only ever sees text that tomllib has parsed.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from retrain.errors import ConfigError, Problem, nearest

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class TomlFile:
    """One TOML file that was read: its values and where each was written."""

    path: Path
    shown: str  # the path as a user knows it
    text: str
    table: dict[str, Any]

    @cached_property
    def _lines(self) -> dict[Place, int]:
        return key_lines(self.text)

    def line(self, *place: str | int) -> int:
        """Return the 1-based line of a key, or of the nearest table around it; 0 when neither is written."""
        for length in range(len(place), 0, -1):
            if place[:length] in self._lines:
                return self._lines[place[:length]]
        return 0


def show_path(path: Path, cwd: Path) -> str:
    """Return a path as a user in `cwd` would write it."""
    absolute = Path(os.path.normpath(cwd / path))
    return str(absolute.relative_to(cwd) if absolute.is_relative_to(cwd) else absolute)


def read(path: Path, shown: str, asked: Problem | None = None) -> TomlFile:
    """Read one file.

    Args:
        path: where it is.
        shown: what to call it in messages.
        asked: where another file names this one, for the message when it cannot be found.

    Raises:
        ConfigError: no such file, a directory, not UTF-8 or not TOML; one problem with its line and a fix.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(_missing(path, shown, asked)) from None
    except IsADirectoryError:
        raise ConfigError(_directory(path, shown)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = f"byte 0x{error.object[error.start]:02x} is not UTF-8, the only encoding of TOML"
        raise ConfigError(Problem(message=message, hint="save the file as UTF-8", file=shown, line=line)) from None
    except OSError as error:
        raise ConfigError(Problem(message=f"cannot be read: {error.strerror}", file=shown)) from None
    text = text.removeprefix("\ufeff")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(error, text, shown)) from None
    return TomlFile(path=path, shown=shown, text=text, table=table)


def _missing(path: Path, shown: str, asked: Problem | None) -> Problem:
    siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    if asked and Path(asked.file).name in siblings:  # a file does not extend itself
        siblings.remove(Path(asked.file).name)
    near = nearest(path.name, siblings)
    hint = f"did you mean {Path(shown).parent / near}?" if near else ""
    if not near and siblings:
        hint = f"in that folder: {', '.join(sorted(siblings)[:8])}"
    if asked:
        return Problem(
            message=f"{asked.message}, but there is no such file", hint=hint, file=asked.file, line=asked.line
        )
    return Problem(message=f"there is no file {shown}", hint=hint or "retrain init writes a config to start from")


def _directory(path: Path, shown: str) -> Problem:
    inside = sorted(p.name for p in path.glob("*.toml"))
    hint = f"give a TOML file, such as {Path(shown) / inside[0]}" if inside else "give a TOML file"
    return Problem(message=f"{shown} is a directory", hint=hint)


def _syntax(error: tomllib.TOMLDecodeError, text: str, shown: str) -> Problem:
    lines = text.rstrip("\n").split("\n")
    found = _AT_LINE.search(str(error))
    number = int(found[1]) if found else max(len(lines), 1)
    number = min(number, max(len(lines), 1))
    written = lines[number - 1].strip() if lines else ""
    what = _AT_LINE.sub("", str(error)).replace("(at end of document)", "before the end of the file").strip()
    hint = _syntax_fix(written, what, lines[: number - 1])
    return Problem(message=f"not valid TOML: {what}", hint=f"{number} | {written}\n{hint}", file=shown, line=number)


def _syntax_fix(written: str, what: str, before: list[str]) -> str:
    """Return what to type instead of a line that is not TOML, or nothing when the fault is unusual."""
    if "overwrite" in what or "twice" in what:
        first = _first_line(written, before)
        return f"it is written twice: already in line {first}; keep one of them" if first else "keep one of the two"
    name, equals, value = (part.strip() for part in written.partition("="))
    value = re.sub(r"\s+#.*$", "", value)
    if written.startswith("[") and written.count("[") != written.count("]"):
        return "close the bracket that is opened in this line"
    if not equals:
        colon = re.fullmatch(r"([\w.-]+)\s*:\s*(.*)", written)
        return f"TOML sets a key with =: {colon[1]} = {colon[2]}" if colon else ""
    fix = next((fix for pattern, fix in _VALUE_FIXES if re.fullmatch(pattern, value, re.DOTALL)), "")
    truth = str(value.lower() in {"true", "yes", "on"}).lower()
    return fix.format(name=name, value=value, truth=truth, number=value.lstrip("+-0") or "0")


_VALUE_FIXES = (  # what stands right of the =, and what to do about it; the first that fits
    (r"", 'a key needs a value; empty text is {name} = ""'),
    (r"(?i:true|false|yes|no|on|off)", "true and false are written small: {name} = {truth}"),
    (r"(?i:none|null|nil)", "TOML has no null: leave {name} out"),
    (r"[^\"]*\"[^\"]*|'[^']*", "a quote that is opened is not closed in this line"),
    (r"\[[^]]*|\{[^}]*", "close the bracket that is opened here"),
    (r"[+-]?(\.\d.*|\d+\.(\D.*)?)", "numbers have digits on both sides of the point: 0.5, 1.0"),
    (r"[+-]?0\d+", "numbers have no leading zero: {name} = {number}"),
    (r"[A-Za-z_~/.$<\\][^\"']*|\d[\w.]*[-/:][^\"']*", 'text needs quotes: {name} = "{value}"'),
)


def _first_line(written: str, before: list[str]) -> int:
    """Return the line that first wrote what `written` writes again; 0 when no line of the same text did."""
    head = re.split(r"[=\s]", written, maxsplit=1)[0]
    same = re.compile(re.escape(head) + r"\s*(=|$|#)")
    return next((n for n in range(len(before), 0, -1) if same.match(before[n - 1].strip())), 0)


def key_lines(text: str) -> dict[Place, int]:
    """Return the 1-based line of every key and table of a valid TOML text.

    ``{("training", "lr"): 12, ("campaign", "conditions", 0, "lr"): 7}``. Members of an inline table are not listed:
    their line is that of the key around them.
    """
    places: dict[Place, int] = {}
    table: Place = ()
    tables_seen: dict[Place, int] = {}  # [[a.b]]: how often, less one
    depth, quote = 0, ""  # of open brackets; of an open multi-line string
    for number, line in enumerate(text.split("\n"), 1):
        if depth or quote:
            depth, quote = _scan(line, depth, quote)
        elif header := _HEADER.match(line):
            names = _parts(header[2])
            if header[1] == "[[":
                tables_seen[names] = tables_seen.get(names, -1) + 1
            table = ()
            for length in range(1, len(names) + 1):
                table += (names[length - 1],)
                if names[:length] in tables_seen:
                    table += (tables_seen[names[:length]],)
            places.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            names = _parts(assignment[1])
            for length in range(1, len(names) + 1):
                places.setdefault(table + names[:length], number)
            depth, quote = _scan(line[assignment.end() :], 0, "")
    return places


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(next(iter(tomllib.loads(f"{part} = 0"))) for part in re.findall(_PART, dotted))


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Go through (the rest of) a line; return how many brackets, and which multi-line string, stay open after it."""
    at = 0
    while at < len(line):
        if quote:
            end = re.compile(r'(?:\\.|[^\\])*?"""' if quote == '"""' else r".*?'''").match(line, at)
            if end is None:
                return depth, quote
            at, quote = end.end(), ""
        elif line.startswith(('"""', "'''"), at):
            quote = line[at : at + 3]
            at += 3
        elif one_line := re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'').match(line, at):
            at = one_line.end()
        elif line[at] == "#":
            break
        else:
            depth += (line[at] in "[{") - (line[at] in "]}")
            at += 1
    return depth, quote


def write(table: dict[str, Any]) -> str:
    """Return a nested table as TOML text.

    Raises:
        TypeError: a value has no TOML form (None, a date, an object).
    """
    import tomli_w

    return tomli_w.dumps(_plain(table))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as TOML")
