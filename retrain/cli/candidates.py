"""What may follow on a command line: from the tables of commands, keys, flags, group files and names.

    retrain explain mini.toml --lr 1e-5 algorithm=max▮     → algorithm=maxrl, algorithm=maxrl_gtpo, …

The grammar is that of `retrain.cli.main`, `flags` and `retrain.config.arguments`. Only the standard library is
imported, and of retrain what the answer needs: each TAB is a process of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.cli.commands import COMMANDS
from retrain.cli.shell_line import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retrain.cli.commands import Command


@dataclass(kw_only=True)
class Line:
    """The arguments before the word that is being typed, read.

    awaits: the flag whose value is being typed; "": none
    may_be: a switch of a config just before, which a true or false may follow; "": none
    """

    name: str
    positional: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    folders: list[Path] = field(default_factory=list)
    awaits: str = ""
    may_be: str = ""

    @property
    def command(self) -> Command:
        return COMMANDS[self.name]

    @property
    def config(self) -> Path | None:
        """The TOML on the line, or the one that is meant without any."""
        named = [Path(text) for text in self.positional if text.endswith(".toml")]
        default = Path("retrain.toml")
        return named[0] if named else default if default.is_file() else None


def after(before: Sequence[str], typed: str) -> list[Candidate]:
    """Return what the last word may become, `typed` being its beginning and `before` the arguments before it."""
    found = _first(typed) if not before else _of(read(before), typed)
    unique = {one.text: one for one in found if one.text.startswith(typed)}
    return list(unique.values())


def read(before: Sequence[str]) -> Line:
    """Read whole arguments."""
    named = before[0] in COMMANDS
    line = Line(name=before[0] if named else "train")
    rest = list(before[1:] if named else before)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("-"):
            if not equals and not word.startswith("~"):
                line.positional.append(word)
            continue
        line.given.add(name)
        if equals or not _takes_next(line.command, name, rest):
            line.may_be = name if not rest and not equals and _is_config_switch(line.command, name) else ""
        elif rest:
            text = rest.pop(0)
        else:
            line.awaits = name
        if name == "--config-dir" and text:
            line.folders.append(Path(text))
    return line


def _takes_next(command: Command, name: str, rest: Sequence[str]) -> bool:
    """Tell whether a flag takes the next word for its value; also when there is none yet."""
    if name in command.flags:
        return bool(command.flags[name])
    if not command.composes:
        return False
    from retrain.campaign.words import takes_next
    from retrain.config.names import FLAGS, OTHER_FLAGS

    if rest:
        return takes_next(name, rest)
    return name in OTHER_FLAGS or (name in FLAGS and not _is_config_switch(command, name))


def _is_config_switch(command: Command, name: str) -> bool:
    from retrain.config import values
    from retrain.config.names import FLAGS
    from retrain.config.schema import KEYS

    is_key = command.composes and name not in command.flags and name in FLAGS
    return is_key and values.base_type(KEYS[FLAGS[name]]) is bool


# --- words ------------------------------------------------------------------------------------------------------------


def _first(typed: str) -> Iterable[Candidate]:
    """Yield what may stand first: a command, or the TOML of `retrain CONFIG.toml`."""
    from retrain.cli import listings

    if typed.startswith("-"):
        yield from (Candidate("--help", "show the commands"), Candidate("--version"))
        return
    yield from (Candidate(name, command.summary) for name, command in COMMANDS.items())
    yield from listings.toml(typed, Line(name="train"))


def _of(line: Line, typed: str) -> Iterable[Candidate]:
    from retrain.cli import listings

    if line.awaits:
        yield from _flag_values(line, line.awaits, typed)
    elif typed.startswith("-"):
        name, equals, text = typed.partition("=")
        yield from _prefixed(f"{name}=", _flag_values(line, name, text)) if equals else _flags(line, typed)
    else:
        if line.may_be:
            yield from (Candidate("true"), Candidate("false"))
        kinds = line.command.takes
        at = len(line.positional)
        positional: list[Candidate] = []
        if kinds and (at < len(kinds) or not line.command.composes):
            positional = list(listings.of_kind(kinds[min(at, len(kinds) - 1)], typed, line))
        yield from positional
        only_a_file = at == 0 and any(one.text.startswith(typed) for one in positional)
        if line.command.composes and not only_a_file and (at or line.name != "train"):
            yield from _overrides(line, typed)


def _flags(line: Line, typed: str) -> Iterable[Candidate]:
    """Yield the flags of a command, then those of a config in their shortest form; the longer ones when asked for."""
    command = line.command
    for name in command.flags:
        if name not in line.given:
            yield Candidate(name, flag_help(command, name))
    yield Candidate("--help", "more about this command")
    if not command.composes:
        return
    from retrain.campaign.words import MULTIRUN
    from retrain.config.names import FLAGS, OTHER_FLAGS, SHORTEST_FLAG
    from retrain.config.schema import KEYS

    if command.sweeps and not line.given & set(MULTIRUN):
        yield Candidate(MULTIRUN[0], "many runs: overrides may name several values")
    yield from (Candidate(name, what) for name, what in OTHER_FLAGS.items())
    shortest = {flag: dotted for dotted, flag in SHORTEST_FLAG.items()}
    fitting = shortest if any(flag.startswith(typed) for flag in shortest) else FLAGS
    yield from (Candidate(flag, KEYS[dotted].help) for flag, dotted in fitting.items())


def flag_help(command: Command, flag: str) -> str:
    """Return what the help of a command says about one of its flags, in a line; "" where it says it elsewhere."""
    found = re.search(rf"^ *{re.escape(flag)}(?: [^ \n]+)*(?: {{2,}})(\S.*)$", command.details, re.MULTILINE)
    return found[1].strip() if found else ""


def _flag_values(line: Line, flag: str, typed: str) -> Iterable[Candidate]:
    """Yield what may follow a flag."""
    from retrain.cli import listings

    own = line.command.flags
    if flag in own or not line.command.composes:
        return listings.of_kind(own.get(flag, ""), typed, line)
    from retrain.config.names import FLAGS
    from retrain.config.schema import KEYS

    if flag == "--config-dir":
        return listings.of_kind("folder", typed, line)
    if flag == "--backend-opt":
        return listings.backend_options(typed)
    return listings.of_key(KEYS[FLAGS[flag]], typed, line) if flag in FLAGS else []


# --- overrides --------------------------------------------------------------------------------------------------------


def _overrides(line: Line, typed: str) -> Iterable[Candidate]:
    """Yield group choices, keys and their values, after a sign of Hydra's if there is one."""
    sign = typed[: len(typed) - len(typed.lstrip("+~"))]
    name, equals, text = typed[len(sign) :].partition("=")
    found = _values(line, name, text) if equals else _names(line, name, removing=sign == "~")
    return _prefixed(f"{sign}{name}=" if equals else sign, found)


def _prefixed(prefix: str, found: Iterable[Candidate]) -> Iterable[Candidate]:
    return (Candidate(prefix + one.text, one.about) for one in found)


def _names(line: Line, typed: str, *, removing: bool) -> Iterable[Candidate]:
    """Yield what may stand left of ``=``: groups, then sections, and the keys of a section that is named."""
    from retrain.cli import listings
    from retrain.config import values
    from retrain.config.layers import CHOICES
    from retrain.config.schema import CAMPAIGN_KEYS, KEYS, SECTIONS

    section, dot, _ = typed.partition(".")
    if typed and typed[:5] == "hydra"[: len(typed)]:
        yield from _of_hydra(line)
    elif typed.startswith("backend.options.") and not removing:
        yield from _prefixed("backend.options.", listings.backend_options(typed.removeprefix("backend.options.")))
    elif dot:
        table = CAMPAIGN_KEYS if section == "campaign" and line.command.sweeps else KEYS
        for key in table.values():
            is_table = values.base_type(key) is dict
            if key.section == section and (is_table or not removing) and key.name != "conditions":
                yield Candidate(f"{key.dotted}{'.' if is_table else '='}", key.help)
    else:
        groups = () if removing else CHOICES
        yield from (Candidate(f"{group}=", f"a group file of {group}") for group in groups)
        if line.command.sweeps and listings.is_campaign(line):
            yield Candidate("condition=", "only this condition of the campaign")
            yield Candidate("campaign.", "keys of [campaign]")
        tables = {key.section for key in KEYS.values() if values.base_type(key) is dict}
        yield from (Candidate(f"{name}.", f"keys of [{name}]") for name in SECTIONS if not removing or name in tables)


def _of_hydra(line: Line) -> Iterable[Candidate]:
    from retrain.cli import listings

    if line.command.sweeps and listings.is_campaign(line):
        yield from (Candidate(f"{name}=", about) for name, (about, _) in listings.of_hydra().items())


def _values(line: Line, name: str, typed: str) -> Iterable[Candidate]:
    """Yield what may stand right of ``=``; after a comma what may be added to a sweep."""
    from retrain.cli import listings
    from retrain.config.layers import CHOICES
    from retrain.config.schema import CAMPAIGN_KEYS, KEYS

    listed, last = "", typed
    if line.command.sweeps or name == "campaign":
        listed, last = typed[: typed.rfind(",") + 1], typed[typed.rfind(",") + 1 :]
    section, _, leaf = name.partition(".")
    found: Iterable[Candidate] = []
    if name in CHOICES:
        found = listings.group_files(name, line)
    elif name.startswith("hydra") and line.command.sweeps:
        found = map(Candidate, listings.of_hydra().get(name, ("", ()))[1])
    elif name == "condition" and line.command.sweeps:
        found = listings.conditions(line)
    elif section == "campaign" and line.command.sweeps and leaf in CAMPAIGN_KEYS:
        found = listings.of_campaign_key(CAMPAIGN_KEYS[leaf], last, line)
    elif name in KEYS:
        found = listings.of_key(KEYS[name], last, line)
    taken = listed.split(",")
    return _prefixed(listed, (one for one in found if one.text not in taken))
