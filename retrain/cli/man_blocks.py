"""The generated blocks of the manual: what keys, names, commands, metrics and errors say of themselves, as Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from retrain import errors, health, metrics, registry
from retrain.cli.commands import COMMANDS
from retrain.config import values
from retrain.config.keys import keys_of
from retrain.config.names import OTHER_NAMES
from retrain.config.schema import CAMPAIGN_KEYS, KEYS, SECTIONS, Campaign, RunConfig
from retrain.errors import ConfigError, Problem, RetrainError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from retrain.config.keys import Key
    from retrain.manual.marks import Block
    from retrain.registry import Entry

NEEDS: Mapping[str, str] = {"planning_mask": "planning tokens", "entropies": "entropies"}
"""What a choice has to be given that not every run has."""


def text_of(block: Block) -> str:
    """Return what stands between the marks of a block.

    Raises:
        ConfigError: there is no such block, or it has no such argument.
    """
    if block.name not in BLOCKS:
        raise ConfigError(unknown_name(kind="generated block", name=block.name, known=list(BLOCKS)))
    return BLOCKS[block.name](block.arguments)


# --- keys -------------------------------------------------------------------------------------------------------------


def keys(sections: Sequence[str]) -> str:
    """Return the keys of these sections, or of all of them: type and range, default, meaning."""
    wanted = among(sections, SECTIONS, "section") or SECTIONS
    parts = []
    for section in wanted:
        declared = type(getattr(RunConfig(), section))
        lines = [key_line(KEYS[key.dotted]) for key in keys_of(section, declared)]
        parts.append("\n".join([f"### [{section}]", "", about(declared), "", *lines]))
    return "\n\n".join(parts)


def campaign_keys(arguments: Sequence[str]) -> str:
    """Return the keys of `[campaign]`."""
    none_of(arguments)
    return "\n".join([about(Campaign), "", *map(key_line, CAMPAIGN_KEYS.values())])


def about(declared: type) -> str:
    """Return what a section is about: the first line of its dataclass, without the page that it points to."""
    return re.sub(r" \(docs/\w+\.md\)", "", (declared.__doc__ or "").partition("\n")[0])


def key_line(key: Key) -> str:
    """Return a key as one item of a list."""
    meaning = key.help.replace("<", "\\<")  # else <time> would be read as HTML
    return f"- `{key.name} = {values.show(key.default)}` ({allowed(key)}): {meaning}"


def allowed(key: Key) -> str:
    """Return what a key takes, in words."""
    names = key.choices or tuple(registry.BUILTIN[key.registry] if key.registry else ())
    if not names:
        return values.needed(key)
    own = "; or `module:attribute` of your own" if key.registry not in ("", "mode") else ""
    return f"{', '.join(names)}{own}"


def other_names(arguments: Sequence[str]) -> str:
    """Return what other programs call a key."""
    none_of(arguments)
    rows = [(f"`{name}`", f"`{dotted}`") for name, dotted in sorted(OTHER_NAMES.items())]
    return table(("elsewhere", "key here"), rows)


# --- names ------------------------------------------------------------------------------------------------------------


def names(families: Sequence[str]) -> str:
    """Return the names of one family of the registry; a column that would be empty is left out."""
    [family] = among(families, registry.BUILTIN, "family of names", exactly=1)
    rows = [(f"`{name}`", entry.summary, formula(entry), needs(entry)) for name, entry in known(family).items()]
    used = [n for n in range(4) if any(row[n] for row in rows)]
    header = ("name", "what it does", "formula", "needs")
    return table([header[n] for n in used], ([row[n] for n in used] for row in rows))


def known(family: str) -> Mapping[str, Entry]:
    return registry.BUILTIN[family]


def formula(entry: Entry) -> str:
    """Return what a choice computes, with the names of its options for their values."""
    named = re.sub(r"\{(\w+)(:[^}]*)?\}", r"\1", entry.formula)
    plain = re.sub(r"\|(.+?)\|", r"abs(\1)", named)  # a bar would end the cell
    return f"`{plain}`" if plain else ""


def needs(entry: Entry) -> str:
    return ", ".join(NEEDS[need] for need in sorted(entry.requires) if need in NEEDS)


# --- commands, exit codes, metrics, health ----------------------------------------------------------------------------


def commands(chosen: Sequence[str]) -> str:
    """Return these commands, or all of them: usage, and what they are for."""
    wanted = among(chosen, COMMANDS, "command") or list(COMMANDS)
    return "\n".join(f"- `{COMMANDS[name].usage}`: {COMMANDS[name].summary}" for name in wanted)


def exit_codes(arguments: Sequence[str]) -> str:
    """Return what each exit code means, from the tree of errors."""
    none_of(arguments)
    rows = [(str(error.exit_code), f"`{error.code}`", (error.__doc__ or "").partition("\n")[0]) for error in leaves()]
    return table(("exit code", "`code` in JSON", "meaning"), [("0", "", "Done."), *rows])


def leaves() -> list[type[RetrainError]]:
    """Return the kinds of errors that have a code of their own, by exit code."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RetrainError)]
    own = [kind for kind in found if "code" in vars(kind) and kind is not RetrainError]
    return sorted(own, key=lambda kind: kind.exit_code)


def metric_table(families: Sequence[str]) -> str:
    """Return the metrics of these families (what comes before the stroke), or all of them."""
    every = {key.partition("/")[0]: None for key in metrics.METRICS}
    wanted = among(families, every, "family of metrics") or every
    chosen = {key: metric for key, metric in metrics.METRICS.items() if key.partition("/")[0] in wanted}
    rows = [(f"`{key}`", metric.unit, metric.meaning) for key, metric in chosen.items()]
    return table(("metric", "unit", "meaning"), rows)


def health_rules(arguments: Sequence[str]) -> str:
    """Return the rules of health: when each is broken, and the keys of its limit."""
    none_of(arguments)
    rows = [(f"`{rule.name}`", first_line(rule), limits(rule)) for rule in health.rules(RunConfig())]
    return table(("rule", "broken when", "limit"), rows)


def first_line(rule: health.Rule) -> str:
    return (rule.__doc__ or "").partition("\n")[0].removesuffix(".").replace("`", "")


def limits(rule: health.Rule) -> str:
    """Return the keys of [health] that a rule's description names, with their defaults."""
    named = [KEYS.get(f"health.{word}") for word in re.findall(r"`(\w+)`", rule.__doc__ or "")]
    return ", ".join(f"`{key.name}` = {values.show(key.default)}" for key in named if key)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def among(given: Sequence[str], known: Iterable[str], kind: str, exactly: int = 0) -> list[str]:
    """Return the arguments of a mark; none stand for all, unless a number is asked for.

    Raises:
        ConfigError: one that is not known, or another number of them.
    """
    choices = list(known)
    problems = [unknown_name(kind=kind, name=name, known=choices) for name in given if name not in choices]
    if exactly and len(given) != exactly:
        problems = [Problem(message=f"name {exactly} {kind}, not {len(given)}", hint=", ".join(choices))]
    if problems:
        raise ConfigError(problems)
    return list(given)


def none_of(arguments: Sequence[str]) -> None:
    """Refuse arguments where a block takes none."""
    if arguments:
        raise ConfigError(f"this block takes no arguments, got {' '.join(arguments)}")


BLOCKS: Mapping[str, Callable[[Sequence[str]], str]] = {
    "keys": keys,
    "campaign-keys": campaign_keys,
    "other-names": other_names,
    "names": names,
    "commands": commands,
    "exit-codes": exit_codes,
    "metrics": metric_table,
    "health": health_rules,
}
"""Name in the mark → what it says; it is given the mark's arguments."""
