"""Take what is of a command itself off its arguments, as `commands` declares it. No abbreviations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli.commands import COMMANDS
from retrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def take_own(command: str, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command's own flags off those of a config: ``({"--json": ""}, the other arguments)``.

    Raises:
        ConfigError: as for `take`.
    """
    return take(COMMANDS[command].flags, arguments, command)


def take(own: Mapping[str, str], arguments: Sequence[str], command: str) -> tuple[dict[str, str], list[str]]:
    """Split these flags off: ``--name value``, ``--name=value``, and switches, whose value is "".

    A repeated flag: the last one wins.

    Raises:
        ConfigError: a flag without its value, or a switch with one.
    """
    found: dict[str, str] = {}
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in own:
            others.append(argument)
        elif own[name]:
            given = value if equals else next(rest, None)
            if given is None or (not given and own[name] != "text"):
                raise ConfigError(f"{name} needs a value; {name} {own[name].upper()}", f"retrain {command} --help")
            found[name] = given
        elif equals:
            raise ConfigError(f"{name} takes no value; write {name} alone", f"retrain {command} --help")
        else:
            found[name] = ""
    return found, others


def parse(command: str, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Read the flags of a command that composes no config; return them with the positional arguments.

    Raises:
        ConfigError: as for `take`, or an unknown flag.
    """
    found, positional = take_own(command, arguments)
    for argument in positional:
        if argument.startswith("-"):
            name = argument.partition("=")[0]
            near = nearest(name, COMMANDS[command].flags)
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
