"""The command line after CONFIG: Hydra overrides, group choices and flags, checked and made into one layer.

    training.lr=1e-5   algorithm=maxrl   ~backend.options.threads      Hydra's grammar
    --lr 1e-5   --lr=1e-5   --shuffle false   --shuffle                flags (`names.FLAGS`)
    --backend-opt threads=4   --config-dir shared/conf                 repeatable

Text arrives as typed: Hydra never sees an unquoted one. Later arguments beat earlier ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retrain.config import grammar, values
from retrain.config.layers import CHOICES, Choice
from retrain.config.names import FLAGS, OTHER_FLAGS, SHORTEST_FLAG, likely_flags, likely_keys, question, unknown_group
from retrain.config.origins import Layer, Origin, merge_tables
from retrain.config.schema import KEYS, SECTIONS
from retrain.config.secrets import HIDDEN, mask_urls, names_secret
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from retrain.config.keys import Key

EXAMPLES = {"resume.path": "auto", "model.adapter": "RUN/adapter"}  # where the default says nothing

NO_TEXT = "not UTF-8, and neither TOML nor JSON, which a run writes, can hold it"
IN_UTF8 = "write it in UTF-8; where the locale is another one: LC_ALL=C.UTF-8 retrain …"

_OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<name>[^=]*?)(?:=(?P<text>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """One value from the command line."""

    key: Key
    path: tuple[str, ...]  # below a free-form table; empty: the key itself
    value: Any
    origin: Origin

    def overrides(self) -> Iterator[str]:
        """Yield what to hand to Hydra."""
        dotted = ".".join([self.key.dotted, *self.path])
        if isinstance(self.value, dict):
            for name, item in self.value.items():
                yield from Setting(self.key, (*self.path, name), item, self.origin).overrides()
        else:
            yield f"{'++' if self.path else ''}{dotted}={grammar.hydra_text(self.value)}"


@dataclass(frozen=True)
class Removal:
    """``~backend.options.threads``: an entry taken out of a free-form table."""

    key: Key
    path: tuple[str, ...]
    origin: Origin

    def overrides(self) -> Iterator[str]:
        """Yield what to hand to Hydra."""
        yield f"~{'.'.join([self.key.dotted, *self.path])}"


@dataclass
class Arguments:
    """The command line, read. `read` fills it; problems are collected, not raised."""

    cwd: Path
    choices: dict[str, Choice] = field(default_factory=dict)
    config_dirs: list[Path] = field(default_factory=list)
    settings: dict[str, Setting | Removal] = field(default_factory=dict)  # by dotted name: the last one wins
    problems: list[Problem] = field(default_factory=list)

    def overrides(self) -> list[str]:
        """Return all of it in Hydra's grammar."""
        chosen = [f"{choice.group}={grammar.hydra_text(choice.name)}" for choice in self.choices.values()]
        return [*chosen, *(text for setting in self.settings.values() for text in setting.overrides())]

    def removals(self) -> list[Removal]:
        """Return the entries to take out of free-form tables."""
        return [setting for setting in self.settings.values() if isinstance(setting, Removal)]

    def layer(self) -> Layer:
        """Return the values (not the choices) as the topmost layer."""
        layer = Layer(removed=[(removal.key.dotted, removal.path) for removal in self.removals()])
        for setting in self.settings.values():
            if isinstance(setting, Removal):
                continue
            value = setting.value
            for name in reversed(setting.path):
                value = {name: value}
            dotted = setting.key.dotted
            layer.values[dotted] = (
                merge_tables(layer.values.get(dotted, {}), value) if isinstance(value, dict) else value
            )
            layer.origins[dotted] = setting.origin
            if isinstance(value, dict):
                layer.origins.update({f"{dotted}.{entry}": setting.origin for entry in value})
        return layer

    def check(self, places: Sequence[Path]) -> list[Problem]:
        """Return what is wrong with the values, each against its key."""
        found = []
        for setting in self.settings.values():
            if isinstance(setting, Setting):
                value = setting.value
                for name in reversed(setting.path):
                    value = {name: value}
                found += values.problems(setting.key, value, setting.origin, places)
        return found

    # --- one argument ---------------------------------------------------------------------------------------------

    def refuse(self, typed: str, message: str, hint: str = "", key: str = "") -> None:
        """Keep a problem with an argument."""
        self.problems.append(Origin(kind="command line", text=typed).problem(message, hint, key))

    def set(self, key: Key, path: tuple[str, ...], text: str, typed: str, *, quotes: bool) -> None:
        """Keep a value that was given as text."""
        named = (path or (key.name,))[-1]
        secret = key.secret or (bool(path) and names_secret(named))
        shown = mask_urls(typed.removesuffix(text) + HIDDEN if secret and text else typed)
        origin = Origin(kind="command line", text=shown)
        dotted = ".".join([key.dotted, *path])
        if not all(map(grammar.is_name, path)):
            self.refuse(
                shown,
                f'"{".".join(path)}" cannot be set from the command line',
                f"set it in the TOML, under [{key.dotted}]",
                dotted,
            )
            return
        try:
            value = grammar.parse(key, text, entry=bool(path), quotes=quotes)
        except ValueError as error:
            self.refuse(shown, f"{dotted}: {error}", "in a shell, put quotes around the whole argument", dotted)
            return
        if grammar.takes_both_quotes(value):
            self.refuse(
                shown,
                "both kinds of quotes inside ${…} cannot be set from the command line",
                "set it in the TOML",
                dotted,
            )
            return
        if value == {}:
            self.refuse(
                shown, f"{dotted}={{}} changes nothing: tables merge", f"take an entry out with ~{dotted}.NAME", dotted
            )
            return
        self.settings.pop(dotted, None)
        self.settings[dotted] = Setting(key, path, value, origin)


def read(arguments: Sequence[str], cwd: Path) -> Arguments:
    """Read the command line."""
    found = Arguments(cwd)
    for argument in arguments:
        if not is_text(argument):
            found.refuse(argument.partition("=")[0], f"it is {NO_TEXT}", IN_UTF8)
    rest = [] if found.problems else list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("-") and not argument.startswith("-="):
            _flag(found, argument, rest)
        else:
            _override(found, argument)
    return found


def is_text(typed: str) -> bool:
    """Tell whether something typed was UTF-8; Python keeps other bytes as halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in typed)


def _flag(found: Arguments, argument: str, rest: list[str]) -> None:
    """Read a flag, and its value from `rest` where it has one there."""
    name, equals, text = argument.partition("=")
    dotted = FLAGS.get(name)
    if dotted is None and name not in OTHER_FLAGS:
        _unknown_flag(found, name, text, argument)
        if not equals and rest and not rest[0].startswith("-") and "=" not in rest[0]:
            rest.pop(0)  # most likely its value
        return
    switch = dotted is not None and values.base_type(KEYS[dotted]) is bool
    typed = argument
    if not equals:
        if switch:
            text = rest.pop(0) if rest and rest[0].lower() in {"true", "false"} else "true"
        elif not rest or rest[0].startswith("--"):
            default = values.show(KEYS[dotted].default) if dotted else ""
            example = EXAMPLES.get(dotted or "") or default or OTHER_FLAGS[name].partition(":")[0]
            found.refuse(
                name,
                "a value is missing",
                f"such as {name} {example}; a value that begins with -- is written {name}=VALUE",
            )
            return
        else:
            text = rest.pop(0)
        typed = f"{name} {text}"
    if name == "--config-dir":
        _config_dir(found, text, typed)
    elif name == "--backend-opt":
        entry, equals, value = text.partition("=")
        if not equals or not entry:
            found.refuse(typed, "NAME=VALUE is missing", f"such as {name} threads=4")
        else:
            found.set(KEYS["backend.options"], tuple(entry.split(".")), value, typed, quotes=False)
    elif dotted is not None:
        found.set(KEYS[dotted], (), text, typed, quotes=False)


def _unknown_flag(found: Arguments, name: str, text: str, argument: str) -> None:
    if name.startswith("--no-") and f"--{name.removeprefix('--no-')}" in FLAGS:
        positive = f"--{name.removeprefix('--no-')}"
        found.refuse(name, "there is no such flag", f"write {positive} false")
        return
    candidates = likely_flags(name)
    value = f"={text}" if text and len(candidates) == 1 else ""
    hint = "" if candidates else "any key is a flag: --lr, --optimizer-eps"
    shown = name if "=" in argument else argument
    found.refuse(shown, f"there is no such flag{question(f'{flag}{value}' for flag in candidates)}", hint)


def _config_dir(found: Arguments, text: str, typed: str) -> None:
    folder = found.cwd / text
    if folder.is_dir() and text:
        found.config_dirs.append(folder)
        return
    siblings = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
    near = nearest(folder.name, siblings)
    what = f"{text} is a file" if folder.is_file() else f"there is no folder {text}" if text else "no folder is named"
    found.refuse(
        typed, f"{what}{question([near] if near else [])}", "a folder that holds model/, algorithm/, … with TOML files"
    )


def _override(found: Arguments, argument: str) -> None:
    parts = _OVERRIDE.fullmatch(argument)
    assert parts is not None, "the pattern matches every text"
    sign, name, text = parts["sign"] or "", parts["name"].strip(), parts["text"]
    section, _, leaf = name.partition(".")
    key, *path = _key_and_path(name)
    if sign == "~":
        _removal(found, argument, name, key, tuple(path))
    elif text is None:
        _no_assignment(found, argument)
    elif name in CHOICES:
        _choice(found, name, text, argument)
    elif key is not None:
        found.set(key, tuple(path), text, argument, quotes=True)
    elif "." in name and section in SECTIONS:
        candidates = likely_keys(leaf, section)
        found.refuse(
            f"{sign}{name}=…",
            f'[{section}] has no key "{leaf}"{question(candidates)}',
            "" if candidates else _keys_of(section),
            name,
        )
    elif "." in name:
        near = nearest(section, SECTIONS)
        exact = f"{near}.{leaf}"
        candidates = [exact] if exact in KEYS else likely_keys(leaf)
        found.refuse(
            f"{sign}{name}=…",
            f"there is no section [{section}]{question(candidates)}",
            f"sections: {', '.join(SECTIONS)}",
            name,
        )
    else:
        _bare_name(found, sign, name, text)


def _key_and_path(name: str) -> tuple[Any, ...]:
    """Split ``backend.options.threads`` into its key and the path below it; (None,) when there is no such key."""
    section, leaf, *path = [*name.split("."), ""]
    path = path[:-1]
    key = KEYS.get(f"{section}.{leaf}")
    if key is None or (path and values.base_type(key) is not dict):
        return (None,)
    return (key, *path)


def _keys_of(section: str) -> str:
    return f"its keys: {', '.join(key.name for key in KEYS.values() if key.section == section)}"


def _no_assignment(found: Arguments, argument: str) -> None:
    if argument.endswith(".toml"):
        found.refuse(argument, "a second config file", 'one TOML takes values of another with extends = "other.toml"')
        return
    known = [*KEYS, *CHOICES]
    near = nearest(argument, known)
    candidates = [argument if argument in known else near] if near else likely_keys(argument)
    shown = [f"{name}=VALUE" for name in candidates]
    typed = argument if argument.strip() else f'"{argument}"'
    found.refuse(typed, f"sets nothing{question(shown)}", "write key=value, group=file or --flag value")


def _choice(found: Arguments, group: str, name: str, argument: str) -> None:
    chosen = Choice(group, grammar.unquoted(name), Origin(kind="command line", text=argument))
    found.choices.pop(group, None)
    found.choices[group] = chosen


def _bare_name(found: Arguments, sign: str, name: str, text: str) -> None:
    if name in SECTIONS:
        found.refuse(f"{name}=…", f"{name} is a section, not a key", _keys_of(name), name)
        return
    near = nearest(name, CHOICES)
    keys = likely_keys(name)
    if near and not any(dotted.endswith(f".{name}") for dotted in keys):
        found.problems.append(unknown_group(name, Origin(kind="command line", text=f"{sign}{name}={mask_urls(text)}")))
        return
    hint = (
        f"or as a flag: {SHORTEST_FLAG[keys[0]]} VALUE"
        if keys
        else "write section.key=value, group=file or --flag value"
    )
    found.refuse(f"{sign}{name}=…", f'there is no key "{name}"{question(f"{dotted}=…" for dotted in keys)}', hint, name)


def _removal(found: Arguments, argument: str, name: str, key: Key | None, path: tuple[str, ...]) -> None:
    if name in CHOICES:
        found.refuse(argument, "a choice cannot be taken back", f"choose another file: {name}=NAME", name)
    elif key is None:
        found.refuse(
            argument,
            f'there is no key "{name}"{question(likely_keys(name))}',
            "~ takes an entry out of a free-form table",
            name,
        )
    elif not path:
        default = values.show(key.default).strip('"') if values.base_type(key) is not dict else ""
        hint = f"{key.dotted}={default} is its default" if default else f"~{key.dotted}.NAME takes one entry out"
        found.refuse(argument, f"{key.dotted} cannot be removed: every key has a value", hint, key.dotted)
    elif "=" in argument:
        found.refuse(argument, "~ takes no value", f"write {argument.partition('=')[0]}", name)
    else:
        origin = Origin(kind="command line", text=argument)
        found.settings.pop(name, None)
        found.settings[name] = Removal(key, path, origin)
