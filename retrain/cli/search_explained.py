"""What a search would do, before it starts: how many trials of which space, who proposes them, what is optimised."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from retrain import history
from retrain.campaign.search import STORAGE
from retrain.cli import output
from retrain.cli.campaign_plan import disk_of_all, number_of
from retrain.cli.derived import bytes_text, money_at_most, money_text
from retrain.cli.progress import duration
from retrain.config import mask
from retrain.config.schema import KEYS
from retrain.config.values import show
from retrain.estimate import volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.campaign.plan import Plan
    from retrain.campaign.search import Search
    from retrain.campaign.space import Dimension
    from retrain.capabilities import Capabilities


def sentence(plan: Plan, search: Search, offered: Mapping[str, Capabilities]) -> str:
    """Say in words what a search does, and what it costs where that is known."""
    config, seeds = plan.composed.config, len(plan.campaign.seeds)
    runs, size = plan.number, volume(config)
    each = "" if seeds == 1 else f" × {seeds} seeds"
    workers = plan.campaign.max_workers
    at_once = f"{workers} at once" if workers > 1 else "one after another"
    place = (
        "processes of this machine" if plan.campaign.launcher == "local" else f"the launcher {plan.campaign.launcher}"
    )
    costs = money_of(plan, offered)
    return (
        f"Trains {config.model.model} {number_of(runs, 'time')} to search {number_of(len(search.space), 'key')}: "
        f"{number_of(search.n_trials, 'trial')}{each}, {config.training.max_steps:,} optimiser steps each. About "
        f"{runs * size.completions:,} completions and {runs * size.generated_tokens_at_most:,} tokens at most in all, "
        f"evaluations apart. {at_once.capitalize()}, by {place}." + (f" It costs {money_text(costs)}." if costs else "")
    )


def money_of(plan: Plan, offered: Mapping[str, Capabilities]) -> dict[str, float]:
    """Return what all trials cost at most, by currency, each taken as the config is without the search."""
    [capabilities] = offered.values()
    amounts = money_at_most(plan.composed.config, capabilities)
    return {currency: plan.number * amount for currency, amount in amounts.items()}


def text(plan: Plan, search: Search, offered: Mapping[str, Capabilities]) -> list[str]:
    """Return the paragraphs of the explanation that are about the search."""
    width = output.prose_columns()
    column = max(len(dimension.name) for dimension in search.space)
    space = [f"  {each.name:<{column}}  {in_words(each)}{_before(plan, each)}" for each in search.space]
    facts = fact_lines(plan, search, offered)
    return [
        textwrap.fill(sentence(plan, search, offered), width=width),
        "\n".join(["Space:", *space]),
        "\n".join(part for line in facts for part in output.fold(line, width, later=" " * 12)),
    ]


def in_words(dimension: Dimension) -> str:
    """Say what values a dimension has."""
    if dimension.choices:
        return f"one of {', '.join(dimension.choices)}"
    ends = f"{dimension.low:g} to {dimension.high:g}"
    if dimension.step is not None:
        return f"{ends} in steps of {dimension.step:g}"
    kind = "a whole number" if dimension.is_whole else "a number"
    return f"{kind} from {ends}" + (", by order of magnitude" if dimension.is_log else "")


def _before(plan: Plan, dimension: Dimension) -> str:
    """Say what the key is without the search."""
    key = KEYS.get(dimension.name)
    if key is None:
        return ""
    value = getattr(getattr(plan.composed.config, key.section), key.name)
    return f" (otherwise {show(value, key.dotted)})"


def fact_lines(plan: Plan, search: Search, offered: Mapping[str, Capabilities]) -> Iterator[str]:
    """Yield a line a fact: what is optimised, by whom, where it is kept, limits, time, cost, disk, directory."""
    campaign, costs = plan.campaign, money_of(plan, offered)
    options = "".join(f", {name} = {show(value)}" for name, value in search.sampler_options.items())
    over = "" if len(campaign.seeds) == 1 else f", the mean over seeds {' '.join(map(str, campaign.seeds))}"
    verb = {"maximize": "Maximises:", "minimize": "Minimises:"}[search.direction]
    yield f"{verb:<11} {campaign.metric} at the last step{over}"
    size = "" if math.isinf(search.size) else f"; {search.size:.0f} configurations are possible"
    yield f"Sampler:    {search.sampler}, seed {search.seed}{options}{size}"
    if len(campaign.seeds) == 1:
        yield (
            f"Seed:       {campaign.seeds[0]} in every trial, so trials differ by luck too: the best of "
            f"{search.n_trials} looks better than it is. seeds = [1, 2, 3] gives each trial three"
        )
    where = mask(search.storage, "storage") or f"{plan.root / STORAGE}"
    yield f'Study:      "{search.study_name}" in {where}'
    limits = [f"{campaign.budget_hours:g} h"] * bool(campaign.budget_hours)
    limits += [f"{campaign.budget_tokens:,} tokens"] * bool(campaign.budget_tokens)
    limits += [f"{campaign.budget_money:g} {' or '.join(costs)}".strip()] * bool(campaign.budget_money)
    limits += [f"{campaign.timeout:g} s for each run"] * bool(campaign.timeout)
    if limits:
        yield f"Limits:     {', '.join(limits)}"
    yield f"Time:       {time_text(plan)}"
    if costs:
        yield f"Cost:       {money_text(costs)}"
    yield f"Disk:       {disk_text(plan)}"
    yield f"Directory:  {plan.root}"


def disk_text(plan: Plan) -> str:
    taken = disk_of_all(plan)
    if taken is None:
        rollouts = plan.number * volume(plan.composed.config).rollout_bytes_at_most
        return f"completions take at most about {bytes_text(rollouts)}"
    return f"at most about {bytes_text(taken)} in all"


def time_text(plan: Plan) -> str:
    """Say how long it takes where earlier runs of this shape tell."""
    [pace] = history.paces([plan.composed.config])
    if pace is None:
        return "unknown: no earlier run on this machine has this model and these sizes"
    seconds = pace.seconds(plan.composed.config.training.max_steps)
    whole = seconds * math.ceil(plan.number / min(plan.campaign.max_workers, plan.number))
    return (
        f"about {duration(whole)}, from {number_of(pace.runs, 'earlier run')} on this machine with the config as it is"
    )


def in_numbers(dimension: Dimension) -> dict[str, Any]:
    """Return a dimension for JSON: the names that it has, or the ends and the step of its numbers."""
    low, high = (None, None) if dimension.choices else (dimension.low, dimension.high)
    return {
        "name": dimension.name,
        "text": dimension.text,
        "choices": list(dimension.choices),
        "low": low,
        "high": high,
        "step": dimension.step,
        "log": dimension.is_log,
        "whole": dimension.is_whole,
    }


def document(plan: Plan, search: Search, offered: Mapping[str, Capabilities]) -> dict[str, Any]:
    """Return what is only of a search, for JSON: the campaign's keys, ``derived``, and no runs yet."""
    campaign, size = asdict(plan.campaign), volume(plan.composed.config)
    del campaign["conditions"]
    runs = plan.number
    derived = {
        "runs": runs,
        "trials": search.n_trials,
        "space": [in_numbers(dimension) for dimension in search.space],
        "configurations": None if math.isinf(search.size) else int(search.size),
        "optimizer_steps": runs * plan.composed.config.training.max_steps,
        "completions": runs * size.completions,
        "generated_tokens_at_most": runs * size.generated_tokens_at_most,
        "rollout_bytes_at_most": runs * size.rollout_bytes_at_most,
        "disk_bytes_at_most": disk_of_all(plan),
        "money_at_most": money_of(plan, offered),
        "directory": str(plan.root),
        "sentence": sentence(plan, search, offered),
    }
    return {"campaign": campaign, "derived": derived, "runs": []}
