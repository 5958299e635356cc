"""`[campaign]` of a TOML: its keys, and its conditions as layers between the files and the command line.

    [campaign]
    seeds = [1, 2, 3, 4]
    [[campaign.conditions]]
    name = "hot"                                  # a label; without one it is made of the algorithm's names
    overrides = ["algorithm=maxrl", "training.temperature=1.0"]
    [[campaign.conditions]]
    advantage_mode = "maxrl"                      # or keys: a flag's name, a dotted name, a section, a group's file

Only the standard library is imported.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from retrain.config import arguments as command_line
from retrain.config import grammar, values
from retrain.config.layers import CHOICES
from retrain.config.names import FLAGS
from retrain.config.origins import Layer, Origin
from retrain.config.schema import CAMPAIGN_KEYS, KEYS, SECTIONS, Campaign
from retrain.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.config.layers import Choice, Library, Reader
    from retrain.config.toml import TomlFile
    from retrain.errors import Problem

LABEL = re.compile(r"[\w.+=,-]+")
ABLATION = (
    ("grpo", "none"),
    ("maxrl", "none"),
    ("maxrl", "gtpo"),
    ("maxrl", "gtpo_hicra"),
    ("maxrl", "gtpo_sepa"),
)
"""The conditions of a campaign that names none: baseline and transform of each."""
NAMING: tuple[str, ...] = ("algorithm.advantage_mode", "algorithm.transform_mode")
"""The keys whose values a condition without a name is called by."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, read. `label` is empty where it has no name: it is made from the composed config."""

    label: str
    origin: Origin
    overrides: Sequence[str]  # what it says, as arguments of the command line
    choices: Sequence[Choice]
    layer: Layer
    layers: Sequence[Layer] = ()  # of its group files, then its own; known once the group files are

    def resolved(self, reader: Reader, library: Library) -> Condition:
        """Return it with the layers of the group files that it picks."""
        return replace(self, layers=[*reader.choice_layers(self.choices, library), self.layer])

    def called(self, advantage_mode: str, transform_mode: str) -> str:
        """Return its name, or what it is called by its values of `NAMING`."""
        return self.label or re.sub(r"[^\w.+=,-]+", "_", f"{advantage_mode}+{transform_mode}")


@dataclass(frozen=True, kw_only=True)
class CampaignTable:
    """`[campaign]` of a TOML and those that it extends."""

    values: Campaign
    origins: Mapping[str, Origin]  # of the keys that are set
    conditions: Sequence[Condition]

    def at(self, key: str) -> Origin:
        """Where a key was set, else where the campaign begins."""
        return self.origins.get(key, self.origins[""])


def is_in(path: Path, seen: frozenset[Path] = frozenset()) -> bool:
    """Tell whether a TOML, or one that it extends, has `[campaign]`. What cannot be read has none: others will say."""
    if path.resolve() in seen:
        return False
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "campaign" in table or any(is_in(parent, seen | {path.resolve()}) for parent in _parents(path, table))


def declared(path: Path, key: str, seen: frozenset[Path] = frozenset()) -> Any:
    """Return a key of `[campaign]` in a TOML or those that it extends, nearest first; None: none sets it."""
    if path.resolve() in seen:
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    own = table.get("campaign")
    if isinstance(own, dict) and key in own:
        return own[key]
    found = (declared(parent, key, seen | {path.resolve()}) for parent in reversed(_parents(path, table)))
    return next((value for value in found if value is not None), None)


def _parents(path: Path, table: Mapping[str, Any]) -> list[Path]:
    extends = table.get("extends", [])
    names = extends if isinstance(extends, list) else [extends]
    return [path.parent / name for name in names if isinstance(name, str)]


def read(files: Sequence[TomlFile], reader: Reader, cwd: Path) -> CampaignTable | None:
    """Read the campaign of a chain of files, parents first; None: there is none.

    A key of a child replaces its parent's. Problems are left with the reader.
    """
    found: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    conditions: list[Condition] = []
    for file in files:
        table = file.table.get("campaign")
        if table is None:
            continue
        origins[""] = Origin(kind="file", file=file.shown, line=file.line("campaign"))
        if not isinstance(table, dict):
            reader.problems.append(
                origins[""].problem("campaign is no table", "[campaign]\nseeds = [1, 2, 3, 4]", "campaign")
            )
            continue
        for name, value in table.items():
            origin = Origin(kind="file", file=file.shown, line=file.line("campaign", name))
            problems = _key_problems(name, value, origin)
            reader.problems += problems
            if not problems:
                found[name], origins[name] = value, origin
        if isinstance(found.get("space"), dict) and "space" in table:
            entries = list(_space_entries(found["space"]))
            found["space"] = {dotted: value for dotted, value, _ in entries}
            for dotted, _, place in entries:
                line = file.line("campaign", "space", *place)
                origins[f"space.{dotted}"] = Origin(kind="file", file=file.shown, line=line)
        if isinstance(table.get("conditions"), list):
            conditions = [
                _condition(table, file, index, reader, cwd)
                for index, table in enumerate(table["conditions"])
                if isinstance(table, dict)
            ]
    if not origins:
        return None
    known = {leaf.name for leaf in fields(Campaign)}
    made = CampaignTable(
        values=Campaign(**{name: value for name, value in found.items() if name in known}),
        origins=origins,
        conditions=conditions if "conditions" in found else list(_ablation(origins[""])),
    )
    reader.problems += _between_keys(made, given=set(found))
    return made


def _space_entries(table: Mapping[str, Any], *before: str) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield what is searched: its dotted name, its value and its place in the table."""
    for name, value in table.items():
        place = (*before, name)
        if isinstance(value, dict):
            yield from _space_entries(value, *place)
            continue
        flag = "--" + name.replace("_", "-")
        plain = ".".join(place)
        yield plain if before or plain in (*CHOICES, *KEYS) else FLAGS.get(flag, plain), value, place


def _key_problems(name: str, value: Any, origin: Origin) -> list[Problem]:
    if name not in CAMPAIGN_KEYS:
        near = nearest(name, CAMPAIGN_KEYS)
        question = f"; did you mean {near}?" if near else ""
        return [
            origin.problem(
                f'[campaign] has no key "{name}"{question}', f"its keys: {', '.join(CAMPAIGN_KEYS)}", f"campaign.{name}"
            )
        ]
    return values.problems(CAMPAIGN_KEYS[name], value, origin, ())


def _between_keys(table: CampaignTable, given: set[str]) -> Iterator[Problem]:
    seeds = table.values.seeds
    if not seeds:
        yield table.at("seeds").problem("campaign.seeds is empty", "seeds = [1, 2, 3, 4]", "campaign.seeds")
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        shown = ", ".join(map(str, repeated))
        yield table.at("seeds").problem(f"campaign.seeds holds {shown} twice", "name each seed once", "campaign.seeds")
    if table.values.sweeper == "optuna":
        for name in sorted({"conditions", "baseline"} & given):
            message = f'campaign.{name} is set, and campaign.sweeper = "optuna" makes its own conditions'
            yield table.at(name).problem(message, f"leave {name} out, or the sweeper", f"campaign.{name}")
        return
    for name in sorted({"space", "sweeper_options"} & given):
        yield table.at(name).problem(
            f"campaign.{name} is set, and nothing is searched", 'sweeper = "optuna"', f"campaign.{name}"
        )
    if "conditions" in given and not table.values.conditions:
        yield table.at("conditions").problem(
            "campaign.conditions is empty", "name some, or leave it out for the ablation of five", "campaign.conditions"
        )


def _ablation(origin: Origin) -> Iterator[Condition]:
    for baseline, transform in ABLATION:
        settings = dict(zip(NAMING, (baseline, transform), strict=True))
        yield Condition(
            label="",
            origin=origin,
            overrides=[f"{dotted}={value}" for dotted, value in settings.items()],
            choices=[],
            layer=Layer(values=dict(settings), origins=dict.fromkeys(settings, origin)),
        )


def _condition(table: Mapping[str, Any], file: TomlFile, index: int, reader: Reader, cwd: Path) -> Condition:
    at = Origin(kind="file", file=file.shown, line=file.line("campaign", "conditions", index))
    label = table.get("name", "")
    if not isinstance(label, str) or (label and not LABEL.fullmatch(label)):
        reader.problems.append(
            at.problem(
                f"the condition's name = {values.show(label)} cannot name a folder",
                "letters, digits and + - _ . = only",
                "campaign.conditions",
            )
        )
        label = ""
    overrides = [*_as_arguments(table, at, file, index, reader), *_given_overrides(table, at, reader)]
    given = command_line.read(overrides, cwd)
    reader.problems += [
        replace(problem, file=at.file, line=at.line) for problem in (*given.problems, *given.check(reader.places))
    ]
    layer = given.layer()
    if "training.seed" in layer.values:
        message = "a condition cannot set training.seed"
        reader.problems.append(at.problem(message, "seeds are the campaign's: seeds = [1, 2, 3, 4]", "training.seed"))
    for removal in given.removals():
        dotted = removal.key.dotted
        message = f"a condition cannot take entries out of {dotted}"
        reader.problems.append(at.problem(message, "leave the entry out of the file, or set another value", dotted))
    return Condition(
        label=label,
        origin=at,
        overrides=overrides,
        choices=[replace(choice, origin=at) for choice in given.choices.values()],
        layer=replace(layer, origins=dict.fromkeys(layer.origins, at)),
    )


def _given_overrides(table: Mapping[str, Any], at: Origin, reader: Reader) -> list[str]:
    overrides = table.get("overrides", [])
    if isinstance(overrides, list) and all(isinstance(text, str) for text in overrides):
        return list(overrides)
    reader.problems.append(
        at.problem(
            f"overrides = {values.show(overrides)} is not a list of texts",
            'overrides = ["algorithm=maxrl", "training.lr=1e-5"]',
            "campaign.conditions",
        )
    )
    return []


def _as_arguments(table: Mapping[str, Any], at: Origin, file: TomlFile, index: int, reader: Reader) -> Iterator[str]:
    """Yield what a condition's keys mean on the command line."""
    for name, value in table.items():
        if name in ("name", "overrides"):
            continue
        line = file.line("campaign", "conditions", index, name) or at.line
        here = replace(at, line=line)
        if name in CHOICES and isinstance(value, str):
            yield f"{name}={value}"
        elif name in SECTIONS and isinstance(value, dict):
            for leaf, item in value.items():
                yield from _argument(f"{name}.{leaf}", item, here, reader)
        else:
            flag = "--" + name.replace("_", "-")
            dotted = name if name in KEYS else FLAGS.get(flag, "")
            yield from _argument(dotted or name, value, here, reader)


def _argument(dotted: str, value: Any, at: Origin, reader: Reader) -> Iterator[str]:
    key = KEYS.get(dotted)
    if key is None:
        leaf = dotted.rpartition(".")[2]
        near = nearest(leaf, [known.name for known in KEYS.values()])
        question = f"; did you mean {near}?" if near else ""
        hint = "a key by its name, such as lr or advantage_mode; or overrides = [...]"
        reader.problems.append(at.problem(f'a condition has no key "{dotted}"{question}', hint, "campaign.conditions"))
        return
    problems = values.problems(key, value, at, reader.places)
    reader.problems += problems
    if problems:
        return
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"{dotted}.{name}={grammar.hydra_text(item)}"
    elif isinstance(value, str) and value[:1] not in ("'", '"'):
        yield f"{dotted}={value}"  # text is taken as it is
    else:
        yield f"{dotted}={grammar.hydra_text(value)}"
