"""What a search would do, checked before anything starts: both ends of every dimension, and each choice, are composed.

What every trial has in common is frozen when the campaign starts, so that editing a TOML changes no later trial:

    ROOT/campaign.toml               the base, as it was written, with `[campaign]`
    ROOT/conf/algorithm/maxrl.toml   what each choice of a group sets, in front of that base
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from retrain import store
from retrain.campaign import plan, search, space
from retrain.campaign.sweep import problem_with
from retrain.campaign.words import setting, words
from retrain.config import compose, toml
from retrain.config.layers import CHOICES, EXPERIMENT
from retrain.config.schema import KEYS, Campaign
from retrain.config.values import base_type
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.campaign.plan import Plan
    from retrain.campaign.search import Search
    from retrain.campaign.space import Dimension
    from retrain.config import Composed
    from retrain.config.schema import RunConfig


def make(path: Path, arguments: Sequence[str], *, changes: Mapping[str, Any], sweeps: bool) -> Plan:
    """Plan a search.

    Args:
        path: CONFIG.
        arguments: the command line after it, without what is Hydra's own.
        changes: keys of `[campaign]` that were given in another way; sweeper_options go on top of the TOML's.
        sweeps: overrides that sweep are the space (``--multirun``); else it is the TOML's.

    Raises:
        ConfigError: everything that is wrong with it; nothing is on disk.
    """
    wanted, settings, rest = plan.split(arguments)
    changes = {**changes, **plan.read_settings(settings)}
    if problem := search.missing():
        raise ConfigError(problem)
    if wanted:
        raise ConfigError("condition= picks a condition, and a search makes its own", "leave it out")
    swept, fixed, problems = _split_words(path, rest) if sweeps else ([], rest, [])
    base = compose(path, fixed)
    if sweeps and base.campaign is not None:
        raise ConfigError(f"{path} has a [campaign] already: its space is what is searched", "leave --multirun out")
    campaign = _campaign(base, changes)
    if not sweeps:
        swept, wrong = search.dimensions(campaign.space, path, fixed)
        problems += [_at(base, name, f"{name}: {text}") for name, text in wrong.items()]
    if campaign.max_steps and "training.max_steps" not in {each.name for each in swept} | _names(fixed):
        fixed = [f"training.max_steps={campaign.max_steps}", *fixed]
        base = compose(path, fixed)
    found, campaign, wrong_options = _options(base, campaign, swept)
    problems += [*wrong_options, *_problems(base, campaign, swept, fixed, problems)]
    probed: dict[str, Composed] = {}
    for dimension in swept:
        problems += _probe(path, fixed, base, dimension, probed)
    problems += _metric_problems(base, campaign, swept, probed)
    if problems or found is None:
        raise ConfigError(problems)
    root = store.planned_directory(base.config, base.name, dt.datetime.now().astimezone())
    return plan.Plan(
        name=base.name,
        kind="multirun" if sweeps else "campaign",
        root=root,
        source=path.resolve(),
        campaign=campaign,
        conditions=[],
        cells=[],
        composed=base,
        overrides=list(fixed),
        search=found,
        group_files={
            f"{group.name}/{option}": frozen(group.name, base, probed[group.setting(option)])
            for group in swept
            if group.name in CHOICES
            for option in group.choices
        },
    )


def _split_words(path: Path, arguments: Sequence[str]) -> tuple[list[Dimension], list[str], list[Problem]]:
    """Tell what sweeps from what is set for every trial."""
    swept: dict[str, Dimension] = {}
    fixed: list[list[str]] = []
    problems = []
    for word in words(arguments):
        name, text = setting(word)
        dimension = None
        if "=" in word[0] and not word[0].startswith(("-", "~")):
            try:
                dimension = space.read(name, text.strip(), path, arguments)
            except ValueError as error:
                problems.append(problem_with(word, str(error)))
                continue
        if dimension is None:
            fixed.append(word)
        else:
            swept[name] = dimension
    return list(swept.values()), list(chain(*fixed)), problems


def _campaign(base: Composed, changes: Mapping[str, Any]) -> Campaign:
    """Return `[campaign]` with the command line's changes; without seeds of its own a trial has the run's one."""
    table = base.campaign
    values = table.values if table else Campaign()
    options = {**values.sweeper_options, **changes.get("sweeper_options", {})}
    if isinstance(options.get("sampler"), dict) and table:
        before = values.sweeper_options.get("sampler", {})
        before = {"name": before} if isinstance(before, str) else before
        others = before if options["sampler"].get("name") in (None, before.get("name")) else {}
        options["sampler"] = {**others, **options["sampler"]}
    changes = {**changes, "sweeper": search.NAME, "sweeper_options": options}
    if "seeds" not in changes and not (table and "seeds" in table.origins):
        changes["seeds"] = [base.config.training.seed]
    return replace(values, **{**changes, "conditions": []})


def _names(arguments: Sequence[str]) -> set[str]:
    """Return what arguments set."""
    return {setting(word)[0] for word in words(arguments)}


def _options(
    base: Composed, campaign: Campaign, swept: Sequence[Dimension]
) -> tuple[Search | None, Campaign, list[Problem]]:
    """Read the sweeper's options; n_jobs is what is called max_workers here."""
    options, problems = dict(campaign.sweeper_options), list[Problem]()
    try:
        found = search.read_options(swept, options)
    except ConfigError as error:
        return None, campaign, [_placed(base, "sweeper_options", problem) for problem in error.problems]
    jobs = options.get("n_jobs", campaign.max_workers)
    if campaign.max_workers not in (1, jobs):
        message = f"n_jobs = {jobs} and max_workers = {campaign.max_workers} say the same thing differently"
        problems.append(_at(base, "sweeper_options", f"{message}; set max_workers alone"))
    found = replace(found, study_name=found.study_name or base.name)
    return found, replace(campaign, max_workers=jobs, **found.as_keys()), problems


def _problems(
    base: Composed, campaign: Campaign, swept: Sequence[Dimension], fixed: Sequence[str], before: Sequence[Problem]
) -> Iterator[Problem]:
    if not swept and not before:
        yield Problem(
            message="hydra/sweeper=optuna, and nothing is searched",
            hint="name what: training.lr='tag(log, interval(1e-5,1e-3))' algorithm='choice(grpo,maxrl)'",
            key="campaign.space",
        )
    if campaign.baseline:
        yield Problem(
            message=f'campaign.baseline = "{campaign.baseline}", and a search has no baseline', hint="leave it out"
        )
    if not campaign.seeds or len(set(campaign.seeds)) < len(campaign.seeds):
        yield Problem(message=f"campaign.seeds = {campaign.seeds} is empty, or names one twice", key="campaign.seeds")
    for dimension in swept:
        if dimension.name in _names(fixed):
            yield _at(base, dimension.name, f"{dimension.name} is searched, and set on the command line; choose one")


def _probe(
    path: Path, fixed: Sequence[str], base: Composed, dimension: Dimension, probed: dict[str, Composed]
) -> Iterator[Problem]:
    """Compose what stands for a dimension and keep it by what it sets; yield what is wrong."""
    key = KEYS.get(dimension.name)
    if key is not None and base_type(key) is int and not dimension.is_whole and not dimension.choices:
        yield _at(base, key.dotted, f"{key.dotted} takes whole numbers, not {dimension.text}; int({dimension.text})")
        return
    for text in map(dimension.setting, dimension.probes()):
        try:
            probed[text] = compose(path, [*fixed, text])
        except ConfigError as error:
            for problem in error.problems:
                yield _placed(base, f"space.{dimension.name}", problem)


def _metric_problems(
    base: Composed, campaign: Campaign, swept: Sequence[Dimension], probed: Mapping[str, Composed]
) -> Iterator[Problem]:
    """Yield a problem when trials will not have the metric that decides; what is searched may be what brings it."""

    def lacks(config: RunConfig) -> bool:
        return any(plan.metric_problems(base, campaign, {"": config}))

    settings = [[text for text in map(each.setting, each.probes()) if text in probed] for each in swept]
    if lacks(base.config):
        settings = [texts for texts in settings if not all(lacks(probed[text].config) for text in texts)]
    configs = {text: probed[text].config for texts in settings for text in texts}
    yield from plan.metric_problems(base, campaign, configs or {"": base.config})


def frozen(group: str, base: Composed, chosen: Composed) -> str:
    """Return the group file that makes of a base what a choice has made of it."""
    if group != EXPERIMENT:
        return toml.write({key.name: chosen.written[dotted] for dotted, key in KEYS.items() if key.section == group})
    sections: dict[str, dict[str, Any]] = {}
    for dotted, key in KEYS.items():
        if chosen.written[dotted] != base.written[dotted]:
            sections.setdefault(key.section, {})[key.name] = chosen.written[dotted]
    return toml.write(sections)


def _at(base: Composed, name: str, text: str) -> Problem:
    """Describe what is wrong with an entry of `[campaign.space]`; a hint may follow a semicolon."""
    message, _, hint = text.partition("; ")
    return _placed(base, f"space.{name}", Problem(message=message, hint=hint, key=f"campaign.space.{name}"))


def _placed(base: Composed, key: str, problem: Problem) -> Problem:
    """Return a problem with the line of `[campaign]` that it is about, where the TOML has that."""
    origins = base.campaign.origins if base.campaign else {}
    if key not in origins:
        return problem
    return replace(problem, file=origins[key].file, line=origins[key].line)
