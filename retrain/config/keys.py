"""How a config key is declared, and how everything that reads the schema sees it. Imports the standard library only."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints


def key(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    registry: str = "",
    secret: bool = False,
    owner: str = "",
    identity: bool = False,
    takes: str = "",
) -> Any:
    """Declare a config key.

    low, high: inclusive bounds; above: exclusive lower bound
    choices:   the only allowed texts
    registry:  the value is a name from this family of `retrain.registry`, or ``pkg.mod:attr``
    secret:    a literal value is refused and never echoed; write ``${oc.env:NAME}``
    owner:     for free-form tables: the dotted key whose change drops the table; for lists: whose being set does
    identity:  part of what its section's group files choose: each of them sets it
    takes:     what a text names, for completion: file, folder, auto|run (kinds as in `retrain.cli.commands`)
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "choices": choices,
        "registry": registry,
        "secret": secret,
        "owner": owner,
        "identity": identity,
        "takes": takes,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One leaf of the schema, as everything that reads the schema sees it."""

    section: str
    name: str
    type: Any  # str, int, float, bool, list[str], dict[str, Any], ...
    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...]
    registry: str
    secret: bool
    owner: str
    identity: bool
    takes: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}"


def keys_of(section: str, cls: type) -> list[Key]:
    """Return the keys that a section's dataclass declares, in order; also those of a backend's options."""
    types = get_type_hints(cls)
    found = []
    for leaf in fields(cls):
        default = leaf.default if leaf.default is not MISSING else leaf.default_factory()  # type: ignore[misc]  # one is set
        found.append(Key(section=section, name=leaf.name, type=types[leaf.name], default=default, **leaf.metadata))
    return found
