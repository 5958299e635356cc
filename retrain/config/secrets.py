"""What must not be shown: values of keys named like secrets, passwords in URLs; and `.env`, where they live."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS
from retrain.errors import Problem

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = "***"
_NAMES = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_COUNTS = re.compile(r"tokens", re.IGNORECASE)  # max_tokens = 512 counts something
_FROM_ENVIRONMENT = re.compile(r"\s*\$\{oc\.env:\s*\w+\s*\}\s*")
_URL_PASSWORD = re.compile(r"(?P<head>://[^\s/:@]*:)[^\s/]*(?=@)")
_URL_ARGUMENT = re.compile(
    r"(?P<head>[?&][^=&#\s]*(?:key|token|secret|passw|credential)[^=&#\s]*=)[^&#\s]+", re.IGNORECASE
)
_DOTENV_LINE = re.compile(
    r"""(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^#"']*?))\s*(?:\s#.*)?"""
)


def names_secret(name: str) -> bool:
    """Tell whether an entry of a free-form table is named like a secret."""
    return bool(_NAMES.search(name))


def literal_secrets(name: str, value: Any, *, secret: bool = False) -> list[str]:
    """Return the names below (and with) `name` whose value is a secret written out, which no file should hold.

    Args:
        name: the entry's own name, the last part of its dotted key.
        value: as written; nested tables are searched.
        secret: the schema calls it one, whatever its name is.
    """
    if isinstance(value, dict):
        return [f"{name}.{found}" for entry, item in value.items() for found in literal_secrets(entry, item)]
    if isinstance(value, list):
        return [name] if any(literal_secrets(name, item, secret=secret) for item in value) else []
    if isinstance(value, bool) or value == "" or not (secret or names_secret(name)):
        return []
    if not isinstance(value, str):
        return [] if _COUNTS.search(name) else [name]
    return [] if _FROM_ENVIRONMENT.fullmatch(value) else [name]


def mask(value: Any, key: str = "") -> str:
    """Return a value as text that may be shown: secrets and passwords in URLs are replaced by stars.

    Args:
        value: any config value.
        key: its dotted key; below a free-form table, the last part of the name tells a secret.
    """
    if key in KEYS:
        return HIDDEN if KEYS[key].secret and value else str(_masked(value, ""))
    return str(_masked(value, key.rpartition(".")[2]))


def _masked(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {entry: _masked(item, entry) for entry, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, name) for item in value]
    if literal_secrets(name, value):
        return HIDDEN
    if isinstance(value, str):
        return mask_urls(value)
    return value


def mask_urls(text: str) -> str:
    """Replace passwords in the URLs of a text by stars."""
    return _URL_ARGUMENT.sub(rf"\g<head>{HIDDEN}", _URL_PASSWORD.sub(rf"\g<head>{HIDDEN}", text))


def load_dotenv(cwd: Path) -> list[Problem]:
    """Set the variables of ``cwd/.env`` that are not set yet; the real environment always wins.

    Lines are ``NAME=value``, ``export NAME="value"``, comments or empty.

    Returns:
        A problem for each line that is none of these; what it holds is not echoed, for it may be a secret.
    """
    path = cwd / ".env"
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(message=f"cannot be read: {type(error).__name__}", file=".env")]
    problems = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if found := _DOTENV_LINE.fullmatch(line):
            name, double, single, bare = found.groups()
            value = (
                re.sub(r"\\(.)", _unescape, double) if double is not None else single if single is not None else bare
            )
            os.environ.setdefault(name, value)
        else:
            problems.append(
                Problem(message="this line sets no variable", hint="write NAME=value", file=".env", line=number)
            )
    return problems


def _unescape(found: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t"}.get(found[1], found[1])
