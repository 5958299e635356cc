"""The flags of commands that compose no config: a handful of known names, no abbreviations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence


def take_switches(arguments: Sequence[str], *names: str) -> tuple[set[str], list[str]]:
    """Split off the switches among the arguments: ``({"--json"}, the other arguments)``."""
    return {a for a in arguments if a in names}, [a for a in arguments if a not in names]


def parse(
    command: str, arguments: Sequence[str], *, options: Sequence[str] = (), switches: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Read ``--name value``, ``--name=value`` and switches; return them with the positional arguments.

    A repeated flag: the last one wins. A switch's value is "".

    Raises:
        ConfigError: an unknown flag, a flag without its value, or a switch with one.
    """
    found: dict[str, str] = {}
    positional: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            positional.append(argument)
        elif name in options:
            given = value if equals else next(rest, None)
            if given is None:
                raise ConfigError(f"{name} needs a value; {name} VALUE")
            found[name] = given
        elif name in switches:
            if equals:
                raise ConfigError(f"{name} takes no value; write {name} alone")
            found[name] = ""
        else:
            near = nearest(name, [*options, *switches])
            question = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{name} is not a flag of retrain {command}{question}", f"retrain {command} --help")
    return found, positional


def one_run(command: str, arguments: Sequence[str]) -> str:
    """Return the one RUN that a command takes.

    Raises:
        ConfigError: a flag, none, or more than one.
    """
    _, positional = parse(command, arguments)
    if len(positional) != 1:
        given = f"got {len(positional)}: {' '.join(positional)}" if positional else "none was given"
        raise ConfigError(f"retrain {command} takes one RUN, {given}", f"retrain {command} --help")
    return positional[0]
