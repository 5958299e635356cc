"""The right-hand side of ``key=value``: Hydra's grammar where it helps, the literal text where it would surprise.

`parse` reads what was typed by the type of the key it is for, so that ``model.revision=1e5`` is the text "1e5" and
``training.lr=1e5`` a number. `hydra_text` writes a value so that Hydra's own parser reads exactly that value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from retrain.config.values import base_type, interpolates, item_type

if TYPE_CHECKING:
    from retrain.config.keys import Key

_WHOLE = re.compile(r"[+-]?\d(?:_?\d)*")
QUOTED = re.compile(r"""'((?:\\.|[^\\'])*)'|"((?:\\.|[^\\"])*)\"""", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_$][\w$-]*|\d+")
"""Names that Hydra's grammar takes in a key."""


def is_name(text: str) -> bool:
    """Tell whether Hydra can set a table's entry of this name."""
    return bool(_NAME.fullmatch(text))


def parse(key: Key, text: str, *, entry: bool = False, quotes: bool = True) -> Any:
    """Return the value that `text` stands for.

    Args:
        key: the key it is for, whose type decides how it is read.
        text: what stands right of the ``=``.
        entry: it is for an entry of the key, a free-form table.
        quotes: quotes around the whole text are Hydra's syntax, not part of a text.

    Raises:
        ValueError: a list or table that is not closed, or has text after its end.
    """
    wanted = item_type(key) if entry else base_type(key)
    if wanted is str:
        return unquoted(text) if quotes else text
    if interpolates(text) and text[:1] not in "[{":
        return unquoted(text)
    if wanted is list and text[:1] == "[":
        return _Values(text, item_type(key)).whole()
    if wanted is dict and text[:1] == "{":
        return _Values(text, item_type(key)).whole()
    return _Values(text, Any).whole() if text[:1] in {"[", "{"} and wanted is Any else scalar(text)


def unquoted(text: str) -> str:
    """Return the text without the quotes around it, if any."""
    found = QUOTED.fullmatch(text)
    if found is None:
        return text
    quote, inner = text[0], text[1:-1]
    return re.sub(rf"(\\+)(?={quote}|\Z)", lambda m: m[1][: len(m[1]) // 2], inner)


def scalar(text: str) -> Any:
    """Return a number or truth value where the text is one, else the text."""
    if QUOTED.fullmatch(text):
        return unquoted(text)
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


class _Values:
    """Reads ``[a, 'b', 1]`` and ``{name: value, other = [1, 2]}``, nested as they like."""

    def __init__(self, text: str, items: Any) -> None:
        self.text = text
        self.items = items  # str: items are texts, whatever they look like
        self.at = 0

    def whole(self) -> Any:
        value = self._value("")
        if self._next():
            raise ValueError(f"there is text after the closing bracket: {self.text[self.at :]}")
        return value

    def _next(self) -> str:
        """Skip blanks and return the character that follows, or nothing at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _value(self, ends: str) -> Any:
        start = self._next()
        if start == "[":
            return self._list()
        if start == "{":
            return self._table()
        word = self._word(ends)
        return unquoted(word) if self.items is str or interpolates(word) else scalar(word)

    def _word(self, ends: str) -> str:
        self._next()
        if quoted := QUOTED.match(self.text, self.at):
            self.at = quoted.end()
            return quoted[0]
        found = re.compile(rf"(?:\$\{{[^}}]*\}}|[^{re.escape(ends)}])*").match(self.text, self.at)
        assert found is not None, "the pattern matches nothing too"
        self.at = found.end()
        return found[0].strip()

    def _list(self) -> list[Any]:
        values = []
        self.at += 1
        while self._next() != "]":
            values.append(self._value(",]"))
            self._separator("]")
        self.at += 1
        return values

    def _table(self) -> dict[str, Any]:
        entries = {}
        self.at += 1
        while self._next() != "}":
            name = unquoted(self._word(":=,}"))
            if self._next() not in {":", "="} or not name:
                raise ValueError("a table is written {name: value, other: value}")
            self.at += 1
            entries[name] = self._value(",}")
            self._separator("}")
        self.at += 1
        return entries

    def _separator(self, end: str) -> None:
        found = self._next()
        if found == ",":
            self.at += 1
        elif found != end:
            raise ValueError(
                f"a comma or {end} is missing" + (f" before {self.text[self.at :]}" if found else " at the end")
            )


def hydra_text(value: Any) -> str:
    """Return a value in Hydra's grammar; text is quoted, so that it arrives as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(hydra_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{hydra_text(item)}" for name, item in value.items()) + "}"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    """Return the text in quotes; backslashes before a quote are escapes, others are not.

    Hydra also keeps each override as text in its own config, where OmegaConf reads interpolations once more: a quote
    must not be escaped inside of one.
    """
    quote = '"' if re.search(r"\$\{[^}]*'", text) else "'"
    doubled = re.sub(rf"(\\+)(?={quote}|\Z)", r"\1\1", text)
    return quote + doubled.replace(quote, f"\\{quote}") + quote


def takes_both_quotes(value: Any) -> bool:
    """Tell whether a text has both kinds of quotes inside interpolations, which no override can carry."""
    return isinstance(value, str) and all(re.search(rf"\$\{{[^}}]*{quote}", value) for quote in "'\"")
