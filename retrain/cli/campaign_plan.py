"""What a campaign would do, before it starts: how many runs, how much they generate, what they could detect."""

from __future__ import annotations

import heapq
import json
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from retrain import estimate, history
from retrain.capabilities import Capabilities
from retrain.cli import extras, formulas, output
from retrain.cli.derived import bytes_text, memory_of_this_machine, money_at_most, money_text
from retrain.cli.progress import duration
from retrain.config.schema import KEYS
from retrain.errors import Problem
from retrain.estimate import disk, volume
from retrain.power import ALPHA, FEWEST_SEEDS, POWER, detectable_difference
from retrain.shapes import measure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from retrain.campaign.plan import Cell, Plan
    from retrain.config.schema import RunConfig

SAME_IN_ALL = ("training.seed", "logging.", "resume.", "backend.adapter_path")  # what a condition is not about


@dataclass(frozen=True, kw_only=True)
class Row:
    """One condition, and the keys in which the conditions differ."""

    label: str
    baseline: bool
    seeds: list[int]
    overrides: list[str]
    differs: dict[str, Any]
    pipeline: list[str]


@dataclass(frozen=True, kw_only=True)
class Detectable:
    """The smallest difference from the baseline that the verdict finds with this power."""

    paired_deviations: float  # in standard deviations of the paired differences
    seeds: int  # that a condition has in common with the baseline, the fewest
    comparisons: int
    power: float = POWER
    alpha: float = ALPHA


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Numbers that follow from a plan. `--json` gives them under ``derived``."""

    runs: int
    conditions: list[Row]
    optimizer_steps: int  # of all runs together
    completions: int
    generated_tokens_at_most: int
    rollout_bytes_at_most: int
    disk_bytes_at_most: int | None  # None: the model is not here
    launcher: str
    max_workers: int
    seconds: float | None  # None: no earlier run on this machine tells
    seconds_from_runs: int  # how many earlier runs tell
    detectable: Detectable | None
    metric: str
    min_effect: float
    budget_hours: float
    budget_tokens: int
    money_at_most: dict[str, float]  # of all runs that have a price, by currency; empty: none has, or no bound
    budget_money: float
    directory: Path


def backends(plan: Plan) -> tuple[dict[str, Capabilities], list[Problem]]:
    """Return what the backend of each condition says of itself, and what keeps the campaign from being run here."""
    offered, problems = dict[str, Capabilities](), list[Problem]()
    for label, composed in plan.firsts.items():
        offered[label], found = extras.backend_of(composed)
        problems += found
    for_report = extras.missing("tracking", "the report of a campaign")
    problems += [for_report] if for_report else []
    currencies = {p.currency for label, c in plan.firsts.items() if (p := offered[label].price(c.config))}
    if plan.campaign.budget_money and len(currencies) != 1:
        what = f"its runs cost {' and '.join(sorted(currencies))}" if currencies else "its runs have no price"
        message = f"campaign.budget_money = {plan.campaign.budget_money:g}, and {what}"
        problems.append(Problem(message=message, hint="leave it out", key="campaign.budget_money"))
    return offered, list(dict.fromkeys(problems))


def facts(plan: Plan, offered: Mapping[str, Capabilities]) -> Facts:
    """Work out what a plan comes to. `offered` is what each condition's backend says of itself."""
    sizes = [volume(cell.composed.config) for cell in plan.cells]
    seconds, known = estimated_seconds(plan)
    campaign = plan.campaign
    return Facts(
        runs=len(plan.cells),
        conditions=rows(plan),
        optimizer_steps=sum(cell.composed.config.training.max_steps for cell in plan.cells),
        completions=sum(size.completions for size in sizes),
        generated_tokens_at_most=sum(size.generated_tokens_at_most for size in sizes),
        rollout_bytes_at_most=sum(size.rollout_bytes_at_most for size in sizes),
        disk_bytes_at_most=disk_of_all(plan),
        launcher=campaign.launcher,
        max_workers=campaign.max_workers,
        seconds=seconds,
        seconds_from_runs=known,
        detectable=detectable(plan),
        metric=campaign.metric,
        min_effect=campaign.min_effect,
        budget_hours=campaign.budget_hours,
        budget_tokens=campaign.budget_tokens,
        money_at_most=money_of(plan, offered),
        budget_money=campaign.budget_money,
        directory=plan.root,
    )


def disk_of_all(plan: Plan) -> int | None:
    """Return what all runs together leave on disk; those of a condition take the same."""
    taken = {label: disk_of(composed.config) for label, composed in plan.firsts.items()}
    each = [taken[cell.label] for cell in plan.cells] or [taken[""]] * plan.number
    return None if None in each else sum(filter(None, each))


def disk_of(config: RunConfig) -> int | None:
    """Return what one run leaves on disk; None: the model is not here."""
    memory = estimate.memory(config, device_bytes=memory_of_this_machine(config))
    return disk(config, measure(config), memory.dtype).total


def money_of(plan: Plan, offered: Mapping[str, Capabilities]) -> dict[str, float]:
    """Return what all runs with a price cost at most; empty where that of one of them has no bound."""
    found: dict[str, float] = {}
    for cell in plan.cells:
        amounts = money_at_most(cell.composed.config, offered[cell.label])
        if not amounts and offered[cell.label].price(cell.composed.config):
            return {}
        found |= {currency: found.get(currency, 0.0) + amount for currency, amount in amounts.items()}
    return found


def rows(plan: Plan) -> list[Row]:
    """Return the conditions with the keys in which they differ from one another."""
    firsts = {cell.label: cell for cell in reversed(plan.cells)}
    keys = [dotted for dotted in KEYS if not dotted.startswith(SAME_IN_ALL)]
    differing = [key for key in keys if len({repr(value(cell, key)) for cell in firsts.values()}) > 1]
    return [
        Row(
            label=condition.label,
            baseline=condition.label == baseline(plan),
            seeds=[cell.seed for cell in plan.cells if cell.label == condition.label],
            overrides=condition.overrides,
            differs={key: value(firsts[condition.label], key) for key in differing},
            pipeline=formulas.pipeline(firsts[condition.label].composed.config),
        )
        for condition in plan.conditions
    ]


def baseline(plan: Plan) -> str:
    return plan.campaign.baseline or plan.conditions[0].label


def value(cell: Cell, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(cell.composed.config, section), name)


def detectable(plan: Plan) -> Detectable | None:
    """Return the smallest detectable difference; None where nothing is compared or there are too few seeds."""
    seeds = {row.label: set(row.seeds) for row in rows(plan)}
    first = seeds.pop(baseline(plan), set())
    if not seeds:
        return None
    common = min(len(first & others) for others in seeds.values())
    if common < FEWEST_SEEDS:
        return None
    deviations = detectable_difference(common, len(seeds))
    return Detectable(paired_deviations=deviations, seeds=common, comparisons=len(seeds))


def estimated_seconds(plan: Plan) -> tuple[float | None, int]:
    """Return how long the whole takes where every run's shape has been seen on this machine, and how many runs tell."""
    firsts = {cell.label: cell for cell in reversed(plan.cells)}
    known = dict(zip(firsts, history.paces([cell.composed.config for cell in firsts.values()]), strict=True))
    free = [0.0] * min(plan.campaign.max_workers, len(plan.cells))
    for cell in plan.cells:
        pace = known[cell.label]
        if pace is None:
            return None, 0
        heapq.heapreplace(free, free[0] + pace.seconds(cell.composed.config.training.max_steps))
    return max(free), max(pace.runs for pace in known.values() if pace)


# --- as text --------------------------------------------------------------------------------------------------------


def plan_sentence(plan: Plan, offered: Mapping[str, Capabilities]) -> str:
    """Say in words what a campaign does, and what it costs where that is known."""
    found = facts(plan, offered)
    return sentence(plan, found) + (f" It costs {money_text(found.money_at_most)}." if found.money_at_most else "")


def sentence(plan: Plan, found: Facts) -> str:
    """Say in words what a campaign does."""
    config = plan.composed.config
    seeds = Counter(len(row.seeds) for row in found.conditions)
    per = f" × {number_of(next(iter(seeds)), 'seed')}" if len(seeds) == 1 else ""
    steps = sorted({cell.composed.config.training.max_steps for cell in plan.cells})
    each = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    at_once = f"{found.max_workers} at once" if found.max_workers > 1 else "one after another"
    place = "processes of this machine" if found.launcher == "local" else f"the launcher {found.launcher}"
    conditions = number_of(len(found.conditions), "condition")
    return (
        f"Trains {config.model.model} {number_of(found.runs, 'time')}: {conditions}{per}, "
        f"{each} optimiser steps each. {found.completions:,} completions and {found.generated_tokens_at_most:,} tokens "
        f"at most in all, evaluations apart. {at_once.capitalize()}, by {place}. {disk_sentence(found)} "
        f"{detectable_sentence(found)}"
    )


def disk_sentence(found: Facts) -> str:
    """Say in a sentence how much disk all runs take together."""
    if found.disk_bytes_at_most is None:
        return f"Completions take at most about {bytes_text(found.rollout_bytes_at_most)} of disk."
    return f"All of it takes at most about {bytes_text(found.disk_bytes_at_most)} of disk."


def detectable_sentence(found: Facts) -> str:
    """Say in a sentence which difference so many seeds can tell from chance."""
    if found.detectable is None:
        return f"It can detect {detects(found)}."
    smallest = found.detectable.paired_deviations
    return (
        f"The smallest difference that it could detect is {smallest:.2f} standard deviations of the paired differences."
    )


def number_of(count: int, what: str) -> str:
    """Return ``1 seed``, ``4 seeds``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def text(plan: Plan, found: Facts) -> list[str]:
    """Return the paragraphs of the explanation that are about the campaign."""
    width = output.prose_columns()
    return [
        textwrap.fill(sentence(plan, found), width=width),
        "\n".join(["Conditions, and the keys in which they differ:", *condition_lines(found.conditions)]),
        "\n".join(part for line in fact_lines(plan, found) for part in output.fold(line, width, later=" " * 12)),
    ]


def condition_lines(conditions: Sequence[Row]) -> list[str]:
    """Return a table: a column for each differing key where they are few, else a line for each value."""
    keys = list(conditions[0].differs)
    names = {row.label: f"{row.label} (baseline)" if row.baseline else row.label for row in conditions}
    cells = [["condition", *keys], *([names[r.label], *(written(r.differs[k]) for k in keys)] for r in conditions)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(keys) + 1)]
    if sum(widths) + 2 * len(widths) <= output.prose_columns():
        return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = []
    for row in conditions:
        lines.append(f"  {names[row.label]}")
        lines += [f"    {key} = {written(row.differs[key])}" for key in keys]
    return lines


def written(value: Any) -> str:
    """Return a value about as it would be written in TOML."""
    return json.dumps(value, ensure_ascii=False)


def fact_lines(plan: Plan, found: Facts) -> list[str]:
    """Return a line a fact: seeds, comparison, what can be detected, time, limits, disk, directory."""
    seeds = list(dict.fromkeys(cell.seed for cell in plan.cells))
    campaign = plan.campaign
    limits = [f"{found.budget_hours:g} h"] * bool(found.budget_hours)
    limits += [f"{found.budget_tokens:,} tokens"] * bool(found.budget_tokens)
    limits += [f"{found.budget_money:g} {' or '.join(found.money_at_most)}".strip()] * bool(found.budget_money)
    limits += [f"{campaign.timeout:g} s for each run"] * bool(campaign.timeout)
    effect = f"; a difference of {found.min_effect:g} matters" if found.min_effect else ""
    return [
        f"Seeds:      {' '.join(map(str, seeds))}",
        f"Compares:   {found.metric} at the last step, each condition with {baseline(plan)}{effect}",
        f"Detects:    {detects(found)}",
        f"Time:       {time_text(found)}",
        *([f"Cost:       {money_text(found.money_at_most)}"] if found.money_at_most else []),
        *([f"Limits:     {', '.join(limits)}"] if limits else []),
        f"Directory:  {found.directory}",
    ]


def detects(found: Facts) -> str:
    """Say what difference the campaign could detect."""
    if len(found.conditions) < 2:
        return "nothing: there is one condition, so nothing is compared"
    if found.detectable is None:
        return f"nothing: a verdict takes at least {FEWEST_SEEDS} seeds that all conditions have in common"
    it = found.detectable
    return (
        f"with {it.seeds} seeds and {number_of(it.comparisons, 'comparison')}, a difference of "
        f"{it.paired_deviations:.2f} standard deviations of the paired differences in {it.power:.0%} of all cases "
        f"(paired t-test at {it.alpha:.0%}, Holm). That is {it.paired_deviations * 2**0.5:.2f} seed-to-seed standard "
        "deviations where the same seed moves two conditions independently, and less where it moves them together"
    )


def time_text(found: Facts) -> str:
    if found.seconds is None:
        return "unknown: no earlier run on this machine has this model and these sizes"
    told = number_of(found.seconds_from_runs, "earlier run")
    return f"about {duration(found.seconds)}, from {told} on this machine; runs side by side may slow each other"


# --- as JSON --------------------------------------------------------------------------------------------------------


def document(plan: Plan, found: Facts) -> dict[str, Any]:
    """Return what is only of a campaign: its own keys, ``derived`` and ``runs``."""
    campaign = asdict(plan.campaign)
    del campaign["conditions"]
    return {
        "campaign": campaign,
        "derived": {**asdict(found), "directory": str(found.directory), "sentence": sentence(plan, found)},
        "runs": [
            {
                "name": cell.name,
                "directory": str(cell.directory),
                "label": cell.label,
                "seed": cell.seed,
                "steps": cell.composed.config.training.max_steps,
                "overrides": cell.overrides,
            }
            for cell in plan.cells
        ],
    }
