"""The shape of a JSON document: every key, the types behind it, what may be null. Values are not part of it."""

from typing import Any


def shape(*documents: Any, data_keys: set[str] = frozenset(), anything: set[str] = frozenset()) -> dict[str, str]:
    """Return path → types, ``{"runs": "list", "runs[]": "table", "runs[].reward": "number | null"}``, of all together.

    data_keys: paths of tables whose keys are data, such as names of metrics; each of these keys is then called "*".
    anything:  paths of values that may be of any type.

    Raises:
        ValueError: the documents, or the tables of a list, have different keys, which programs cannot rely on.
    """
    found: dict[str, set[str]] = {}
    keys: dict[str, set[str]] = {}

    def walk(value: Any, path: str) -> None:
        types = found.setdefault(path, set())
        if path in anything:
            types.add("anything")
        elif isinstance(value, dict):
            types.add("table")
            if path not in data_keys and keys.setdefault(path, set(value)) != set(value):
                raise ValueError(f"{path or 'the document'}: {sorted(keys[path] ^ set(value))} are not always there")
            for name, item in value.items():
                walk(item, f"{path}.{'*' if path in data_keys else name}".removeprefix("."))
        elif isinstance(value, list):
            types.add("list")
            for item in value:
                walk(item, f"{path}[]")
        else:
            types.add(kind(value))

    for document in documents:
        walk(document, "")
    return {path: " | ".join(sorted(types, key=lambda one: (one == "null", one))) for path, types in found.items()}


def kind(value: str | float | bool | None) -> str:
    """Return what JSON calls a value that holds no others."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"
