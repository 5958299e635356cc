"""What a campaign would run: every run composed and checked before anything starts.

conditions × seeds ──compose──▶ cells, each a whole config with a directory of its own
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import store
from retrain.config import values
from retrain.config.campaign import LABEL
from retrain.config.compose import CellConfig, Composed, compose, compose_campaign
from retrain.config.logged import metric_problem
from retrain.config.origins import DEFAULT
from retrain.config.schema import CAMPAIGN_KEYS, Campaign
from retrain.errors import ConfigError, Problem, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.campaign.search import Search
    from retrain.config.schema import RunConfig

WITHOUT_EFFECT = ("logging", "resume", "health")  # sections that no step depends on


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What some runs have in common but for the seed."""

    label: str
    overrides: list[str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a condition with a seed."""

    name: str  # "<label>_s<seed>"
    label: str
    seed: int
    overrides: list[str]
    directory: Path
    composed: Composed
    key: str

    def placed(self, root: Path) -> Cell:
        """Return it with a directory, a name and an adapter of its own below the campaign's."""
        directory = root / "runs" / self.name
        composed = self.composed.replace("logging.log_dir", str(directory), "the campaign")
        composed = composed.replace("logging.run_name", self.name, "the campaign")
        composed = composed.replace("resume.path", "", "the campaign")
        adapter = self.composed.config.backend.adapter_path
        if adapter:
            composed = composed.replace("backend.adapter_path", str(Path(adapter) / self.name), "the campaign")
        return replace(self, directory=directory, composed=composed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A campaign before it starts."""

    name: str
    kind: str  # "campaign", or "multirun"
    root: Path  # where it would go; `placed` moves it
    source: Path | None
    campaign: Campaign
    conditions: list[Condition]
    cells: list[Cell]
    composed: Composed  # what all runs have in common
    overrides: list[str]  # of the command line, for every run
    search: Search | None = None  # proposes the conditions while the campaign goes on; there are no cells before
    group_files: Mapping[str, str] = field(default_factory=dict)  # "algorithm/maxrl": what such a choice of it sets

    @property
    def number(self) -> int:
        """How many runs there are to be."""
        return self.search.n_trials * len(self.campaign.seeds) if self.search else len(self.cells)

    @property
    def firsts(self) -> dict[str, Composed]:
        """A run of each condition by its label, as it is composed; of a search, what its trials start from, as ""."""
        return {cell.label: cell.composed for cell in reversed(self.cells)} or {"": self.composed}

    def placed(self, root: Path) -> Plan:
        """Return it with all of its runs below another directory."""
        return replace(self, root=root, cells=[cell.placed(root) for cell in self.cells])


def make(path: Path, arguments: Sequence[str] = (), *, changes: Mapping[str, Any] | None = None) -> Plan:
    """Plan a TOML with `[campaign]`; `arguments` are for every run, but `condition=LABEL` and `campaign.KEY=VALUE`.

    changes: keys of `[campaign]` that were given in another way

    Raises:
        ConfigError: everything that is wrong with it; nothing is on disk.
    """
    wanted, settings, rest = split(arguments)
    base, composed = compose_campaign(path, rest, changes={**(changes or {}), **read_settings(settings)})
    assert base.campaign is not None
    campaign = base.campaign.values
    labels = _labels(composed)
    cells = [
        cell_of(labels[id(cell.condition)], cell.seed, [*cell.condition.overrides, *rest], cell.composed, Path())
        for cell in composed
    ]
    conditions = _conditions(composed, labels)
    return _checked(base, campaign, conditions, cells, wanted, rest, kind="campaign")


def make_multirun(
    path: Path,
    jobs: Sequence[Sequence[str]],
    labels: Sequence[str],
    arguments: Sequence[str],
    *,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan the jobs of a sweep: each with its own arguments; those with one label differ in their seeds.

    Raises:
        ConfigError: everything that is wrong with them; nothing is on disk.
    """
    wanted, settings, _ = split(arguments)
    jobs = [split(job)[2] for job in jobs]
    composed, problems = [], list[Problem]()
    for job in jobs:
        try:
            composed.append(compose(path, job))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if composed[0].campaign is not None:
        raise ConfigError(
            f"{path} has a [campaign] already: its conditions and seeds are what is swept", "leave --multirun out"
        )
    cells = [
        cell_of(label, each.config.training.seed, list(job), each, Path())
        for label, job, each in zip(labels, jobs, composed, strict=True)
    ]
    first: dict[str, list[str]] = {}
    for label, job in zip(labels, jobs, strict=True):
        first.setdefault(label, [text for text in job if not text.startswith("training.seed=")])
    conditions = [Condition(label=label, overrides=overrides) for label, overrides in first.items()]
    seeds = sorted({cell.seed for cell in cells})
    campaign = replace(Campaign(seeds=seeds), **{**(changes or {}), **read_settings(settings)})
    return _checked(composed[0], campaign, conditions, cells, wanted, [], kind="multirun")


def split(arguments: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Take `condition=A,B` and `campaign.KEY=VALUE` off the arguments; return them and the rest."""
    wanted: list[str] = []
    settings: dict[str, str] = {}
    rest: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name == "condition":
            wanted += value.split(",")
        elif equals and name.startswith("campaign."):
            settings[name.removeprefix("campaign.")] = value
        else:
            rest.append(argument)
    return wanted, settings, rest


def read_settings(settings: dict[str, str]) -> dict[str, Any]:
    """Return the keys of `[campaign]` that the command line sets.

    Raises:
        ConfigError: there is no such key, or it does not take such a value.
    """
    from retrain.config import grammar
    from retrain.config.origins import Origin

    problems: list[Problem] = []
    changes: dict[str, Any] = {}
    for name, text in settings.items():
        origin = Origin(kind="command line", text=f"campaign.{name}={text}")
        if name not in CAMPAIGN_KEYS or name == "conditions":
            problems.append(unknown_name(kind="key of [campaign]", name=name, known=list(CAMPAIGN_KEYS)))
            continue
        changes[name] = grammar.parse(CAMPAIGN_KEYS[name], text)
        problems += values.problems(CAMPAIGN_KEYS[name], changes[name], origin, ())
    if problems:
        raise ConfigError(problems)
    return changes


def _labels(cells: Sequence[CellConfig]) -> dict[int, str]:
    """Return what each condition is called, by its identity: its name, or baseline+transform."""
    named = {}
    for cell in cells:
        algorithm = cell.composed.config.algorithm
        named[id(cell.condition)] = cell.condition.called(algorithm.advantage_mode, algorithm.transform_mode)
    return named


def _conditions(cells: Sequence[CellConfig], labels: dict[int, str]) -> list[Condition]:
    distinct = {id(cell.condition): cell.condition for cell in cells}
    return [Condition(label=labels[key], overrides=list(found.overrides)) for key, found in distinct.items()]


def cell_of(label: str, seed: int, overrides: list[str], composed: Composed, root: Path) -> Cell:
    """Return the run of a condition with a seed, below the campaign's directory."""
    name = f"{label}_s{seed}"
    return Cell(
        name=name,
        label=label,
        seed=seed,
        overrides=overrides,
        directory=root / "runs" / name,
        composed=composed,
        key=key_of(composed),
    )


def key_of(composed: Composed) -> str:
    """Hash what a run computes: its config without places, tracking and health."""
    config = asdict(composed.config)
    for section in WITHOUT_EFFECT:
        del config[section]
    config["backend"].pop("adapter_path")
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _checked(
    base: Composed,
    campaign: Campaign,
    conditions: list[Condition],
    cells: list[Cell],
    wanted: list[str],
    overrides: list[str],
    *,
    kind: str,
) -> Plan:
    firsts = {cell.label: cell.composed.config for cell in reversed(cells)}
    problems = [*_problems(campaign, conditions, cells, wanted), *metric_problems(base, campaign, firsts)]
    if problems:
        raise ConfigError(problems)
    if wanted:
        cells = [cell for cell in cells if cell.label in wanted]
        conditions = [condition for condition in conditions if condition.label in wanted]
    root = store.planned_directory(base.config, base.name, dt.datetime.now().astimezone())
    plan = Plan(
        name=base.name,
        kind=kind,
        root=root,
        source=base.path.resolve() if base.path else None,
        campaign=replace(campaign, conditions=[]),
        conditions=conditions,
        cells=cells,
        composed=base,
        overrides=overrides,
    )
    return plan.placed(root)


def _problems(
    campaign: Campaign, conditions: Sequence[Condition], cells: Sequence[Cell], wanted: Sequence[str]
) -> Iterator[Problem]:
    labels = [condition.label for condition in conditions]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield Problem(
            message=f'two conditions are called "{label}"',
            hint='give them names: name = "hot"',
            key="campaign.conditions",
        )
    for label in labels:
        if not LABEL.fullmatch(label):
            yield Problem(
                message=f'the condition "{label}" cannot name a folder', hint='give the condition a name: name = "hot"'
            )
    by_key: dict[str, Cell] = {}
    for cell in cells:
        same = by_key.setdefault(cell.key, cell)
        if same is not cell and labels.count(cell.label) == 1:
            yield Problem(
                message=f"{same.name} and {cell.name} are the same run: their configs do not differ",
                hint="drop one, or change a key that a step depends on",
                key="campaign.conditions",
            )
    for name, chosen in (
        ("condition", wanted),
        ("campaign.baseline", [campaign.baseline] if campaign.baseline else []),
    ):
        for label in chosen:
            if label not in labels:
                yield unknown_name(kind="condition", name=label, known=labels, key=name)


def metric_problems(base: Composed, campaign: Campaign, configs: Mapping[str, RunConfig]) -> Iterator[Problem]:
    """Yield a problem when some runs will not have the metric that decides.

    configs: what runs have, by what tells them apart
    """
    table = base.campaign
    written = table is not None and "metric" in table.origins
    at = table.at("metric") if table is not None and written else DEFAULT
    shown = f'campaign.metric = "{campaign.metric}"'
    found = {
        label: problem
        for label, config in configs.items()
        if (problem := metric_problem(campaign.metric, config, at, shown))
    }
    for message in dict.fromkeys(problem.message for problem in found.values()):
        labels = [label for label, problem in found.items() if problem.message == message]
        where = "" if len(labels) == len(configs) else f" (in {', '.join(sorted(labels))})"
        yield replace(found[labels[0]], message=f"{message}{where}")


def keys_as_dict(campaign: Campaign) -> dict[str, Any]:
    """Return the keys of `[campaign]` but its conditions, as the manifest keeps them."""
    return {leaf.name: getattr(campaign, leaf.name) for leaf in fields(campaign) if leaf.name != "conditions"}
