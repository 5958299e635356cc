"""Is A better than B? Verdicts over seeds, in words, with their uncertainty.

The primary metric is the declared one at the planned last step. Each condition is compared with the baseline on the
seeds that both have (`retrain.seeds`). Training reward and equal budgets are secondary: shown, without a verdict.

Each difference has two intervals: over seeds, which decides, and over seeds and problems (`retrain.crossed`), which is
shown beside it where all runs kept their answers to the same problems.

There is no verdict while runs are missing, below four common seeds, and where two conditions lost runs unequally:
the runs that are left are then no fair sample, unless failures count at the floor.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain import crossed, ranking, seeds, study
from retrain.comparability import cautions
from retrain.errors import RetrainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.crossed import Problems
    from retrain.study import Measure, Run, Study

NO_VERDICT = "no verdict"
TOKENS, SECONDS = "tokens/generated", "time/total"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition over its seeds. The interval is a 95 % t-interval of the mean; NaN: not known."""

    label: str
    planned: int
    finished: int
    lost: int
    mean: float
    low: float
    high: float
    values: Mapping[int, float]  # by seed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A condition against the baseline, on their common seeds. NaN: not known."""

    label: str
    baseline: str
    seeds: Sequence[int]
    difference: float
    low: float  # simultaneous with all other comparisons
    high: float
    problems_low: float  # as low and high, but for other problems too
    problems_high: float
    p: float
    p_holm: float
    improvement: float  # chance of being above the baseline on a new seed
    improvement_low: float
    improvement_high: float
    verdict: str  # one of `seeds.VERDICTS`, or "no verdict"
    reason: str  # why there is none; "" where there is one
    spread: float  # standard deviation of the paired difference
    detectable: float  # the difference that this many seeds see with 80 % power
    detectable_low: float
    detectable_high: float
    seeds_needed: int | None  # for min_effect; None: none was named, not known, or over 10,000
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Secondary:
    """Another measure: means of all conditions, and 95 % intervals of differences without correction or verdict."""

    name: str
    note: str
    means: Mapping[str, float]
    differences: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """All that is known of a study."""

    study: Study
    conditions: Sequence[Condition]
    comparisons: Sequence[Comparison]
    problems: Problems
    secondary: Sequence[Secondary]
    headline: str
    warnings: Sequence[str] = field(default_factory=list)


def load(paths: Sequence[Path], metric: str = "", *, by: Sequence[str] = (), floor: bool = False) -> Study:
    """Read what is to be compared: see `retrain.study.load`."""
    return study.load(paths, metric, by=by, floor=floor)


def judge(found: Study) -> Verdicts:
    """Compare every condition with the baseline."""
    conditions = [_condition(found, label) for label in found.labels]
    baseline, *others = conditions
    common = [sorted(baseline.values.keys() & other.values.keys()) for other in others]
    differences = [
        np.array([other.values[s] - baseline.values[s] for s in shared])
        for other, shared in zip(others, common, strict=True)
    ]
    numbers = seeds.compare(differences, found.min_effect)
    problems = crossed.problems(found)
    level = 1 - seeds.ALPHA / max(len(others), 1)
    wide = [
        problems.ends(other.label, baseline.label, shared, level) for other, shared in zip(others, common, strict=True)
    ]
    comparisons = [
        _comparison(found, baseline, other, shared, d, (*_at(numbers, i), *beyond), len(others))
        for i, (other, shared, d, beyond) in enumerate(zip(others, common, differences, wide, strict=True))
    ]
    return Verdicts(
        study=found,
        conditions=conditions,
        comparisons=comparisons,
        problems=problems,
        secondary=list(_secondary(found)),
        headline=_headline(comparisons),
        warnings=list(cautions(found)),
    )


def headline(directory: Path) -> str:
    """Return the verdict on a campaign in one line, of a search its best trial; while nothing can be said, why."""
    try:
        if ranking.is_search(directory):
            return ranking.load(directory).headline
        return judge(load([directory])).headline
    except RetrainError as error:
        return f"No verdict: {error.problems[0].message}"


# --- the primary metric -----------------------------------------------------------------------------------------------


def _condition(found: Study, label: str) -> Condition:
    values = found.values(label, found.final)
    interval = seeds.t_interval(list(values.values()))
    runs, lost = found.of(label), found.lost(label)
    return Condition(
        label=label,
        planned=len(runs),
        finished=sum(run.state == "done" for run in runs) - sum(run.state == "done" for run in lost),
        lost=len(lost),
        mean=float(interval.mean),
        low=float(interval.low),
        high=float(interval.high),
        values=dict(sorted(values.items())),
    )


def _at(numbers: tuple[Any, seeds.Interval, Any], i: int) -> tuple[float, float, float, str]:
    """Return adjusted p, the ends of the interval and the verdict of one comparison."""
    adjusted, interval, codes = numbers
    return float(adjusted[i]), float(interval.low[i]), float(interval.high[i]), seeds.VERDICTS[int(codes[i])]


def _comparison(
    found: Study,
    baseline: Condition,
    other: Condition,
    shared: Sequence[int],
    d: np.ndarray,
    numbers: tuple[float, float, float, str, float, float],
    comparisons: int,
) -> Comparison:
    adjusted, low, high, verdict, problems_low, problems_high = numbers
    reason = why_not(found, baseline, other, len(shared))
    spread, spread_low, spread_high = seeds.spread(d)
    unit = seeds.detectable(len(d), comparisons)
    better, better_low, better_high = seeds.improvement(d)
    known = math.isfinite(spread) and spread > 0
    wanted = seeds.seeds_needed(found.min_effect / spread, comparisons) if known and found.min_effect > 0 else None
    facts = {
        "label": other.label,
        "baseline": baseline.label,
        "seeds": list(shared),
        "difference": float(d.mean()) if len(d) else math.nan,
        "low": low,
        "high": high,
        "problems_low": problems_low,
        "problems_high": problems_high,
        "p": float(seeds.paired_p(d)) if len(d) else math.nan,
        "p_holm": adjusted,
        "improvement": better,
        "improvement_low": better_low,
        "improvement_high": better_high,
        "verdict": NO_VERDICT if reason else verdict,
        "reason": reason,
        "spread": spread,
        "detectable": spread * unit if math.isfinite(unit) else math.nan,
        "detectable_low": spread_low * unit if math.isfinite(unit) else math.nan,
        "detectable_high": spread_high * unit if math.isfinite(unit) else math.nan,
        "seeds_needed": wanted,
    }
    return Comparison(**facts, sentence=_sentence(facts, found.min_effect))


def why_not(found: Study, baseline: Condition, other: Condition, shared: int) -> str:
    """Say why two conditions cannot be judged; "" where they can."""
    if missing := len(found.unfinished()):
        return f"{missing} of {len(found.runs)} planned runs are not finished"
    if not found.floor and other.lost != baseline.lost:
        return (
            f"the conditions lost runs unequally ({other.label} {other.lost} of {other.planned}, {baseline.label} "
            f"{baseline.lost} of {baseline.planned}); --failures floor counts lost runs at the lowest value"
        )
    if shared < seeds.FEWEST:
        return f"{shared} common {'seed' if shared == 1 else 'seeds'}, and it takes {seeds.FEWEST}"
    return ""


def _sentence(facts: Mapping[str, Any], min_effect: float) -> str:
    """Say in words what a comparison has found."""
    label, baseline, verdict, n = facts["label"], facts["baseline"], facts["verdict"], len(facts["seeds"])
    margin = f"±{min_effect:g}"
    if verdict == NO_VERDICT:
        return f"{label} against {baseline}: no verdict, because {facts['reason']}"
    if not math.isfinite(facts["low"]):
        return f"{label} against {baseline}: cannot tell, because the difference is the same on all {n} seeds"
    p = "p < 0.0001" if facts["p_holm"] < 1e-4 else f"p = {facts['p_holm']:.2g}"
    numbers = f"{facts['difference']:+.3g} (95 % {_end(facts['low'])} to {_end(facts['high'])}, {n} seeds, {p})"
    if verdict in ("better", "worse"):
        size = max(abs(facts["low"]), abs(facts["high"]))
        small = f", by less than the {min_effect:g} that matters" if 0 < size < min_effect else ""
        return f"{label} is {verdict} than {baseline}: {numbers}{small}{_elsewhere(facts, 0.0)}"
    if verdict == "equivalent":
        return f"{label} and {baseline} are equivalent within {margin}: {numbers}{_elsewhere(facts, min_effect)}"
    needed = facts["seeds_needed"]
    more = f"; {min_effect:g} would take {'over 10,000' if needed is None else needed} seeds" if min_effect > 0 else ""
    sight = f"this many seeds see a difference of {facts['detectable']:.2g} with 80 % power{more}"
    return f"{label} against {baseline}: cannot tell: {numbers}; {sight}"


def _elsewhere(facts: Mapping[str, Any], margin: float) -> str:
    """Say where a verdict on these problems is not one on problems like them; "" where it is, or nobody knows."""
    low, high = facts["problems_low"], facts["problems_high"]
    holds = low > 0 or high < 0 if margin == 0 else -margin < low and high < margin
    if holds or not math.isfinite(low):
        return ""
    return f"; on other problems like these that is not sure: {_end(low)} to {_end(high)}"


def _end(value: float) -> str:
    """Write the end of an interval; one that is cut at 0 is open there."""
    return "0" if 0 < abs(value) < 1e-300 else f"{value:+.3g}"


def _headline(comparisons: Sequence[Comparison]) -> str:
    """Return the whole answer in a line: the best news first."""
    reasons = list(dict.fromkeys(c.reason for c in comparisons if c.reason))
    if len(reasons) == 1 and all(c.reason for c in comparisons):
        return f"No verdict: {reasons[0]}."
    order = ("better", "worse", "equivalent", "cannot tell", NO_VERDICT)
    ranked = sorted(comparisons, key=lambda c: (order.index(c.verdict), -c.difference))
    first = ranked[0].sentence
    others = [f"{sum(c.verdict == word for c in ranked[1:])} {word}" for word in order]
    rest = ", ".join(text for text in others if not text.startswith("0 "))
    if len(ranked) == 2:
        return f"{first}. The other one: {ranked[1].verdict}."
    return f"{first}." + (f" Of the other {len(ranked) - 1}: {rest}." if rest else "")


# --- secondary measures -----------------------------------------------------------------------------------------------


def _secondary(found: Study) -> Iterator[Secondary]:
    done = [run for run in found.runs if run.state == "done" and found.final(run) is not None]
    measures: list[tuple[str, str, Measure]] = [
        ("training reward, end", "mean of reward/mean over the last 10 % of the steps", study.tail_mean),
        ("training reward, area", "mean of reward/mean over all steps", study.area),
    ]
    clock = "seconds of steps, which depend on what else the machine did"
    for name, cost, unit in (("equal tokens", TOKENS, "generated tokens"), ("equal time", SECONDS, clock)):
        budget = min((run.total(cost) for run in done), default=0.0)
        if budget > 0:
            note = f"{found.metric} when each run had spent {budget:,.0f}, the most that all runs reached, of {unit}"
            measure = partial(study.at_budget, metric=found.metric, cost=cost, budget=budget)
            measures.append((name, note, measure))
    for name, note, measure in measures:
        if one := _measured(found, name, note, measure):
            yield one


def _measured(found: Study, name: str, note: str, measure: Measure) -> Secondary | None:
    values = {label: found.values(label, measure) for label in found.labels}
    if not any(values.values()):
        return None
    base = values[found.baseline]
    differences = {}
    for label in found.labels[1:]:
        shared = sorted(base.keys() & values[label].keys())
        d = [values[label][s] - base[s] for s in shared]
        mean, low, high = (float(part) for part in seeds.t_interval(d))
        known = bool(seeds.varies(d))  # the same on all seeds is no certainty
        differences[label] = (mean, low, high) if known else (mean, math.nan, math.nan)
    means = {label: float(np.mean(list(v.values()))) if v else math.nan for label, v in values.items()}
    return Secondary(name=name, note=note, means=means, differences=differences)


# --- for programs -----------------------------------------------------------------------------------------------------


def document(verdicts: Verdicts) -> dict[str, Any]:
    """Return everything as plain values for JSON: null where nothing is known. Its keys are a public contract."""
    found, known = verdicts.study, verdicts.problems
    return _plain({
        "format": 1,
        "name": found.name,
        "headline": verdicts.headline,
        "metric": found.metric,
        "baseline": found.baseline,
        "min_effect": found.min_effect,
        "failures": "floor" if found.floor else "withhold",
        "compared": list(found.compared),
        "warnings": list(verdicts.warnings),
        "looks": [dict(look) for look in found.looks],
        "conditions": [asdict(condition) for condition in verdicts.conditions],
        "problems": {"count": known.count, "left_out": known.left_out, "reason": known.reason},
        "comparisons": [asdict(comparison) for comparison in verdicts.comparisons],
        "secondary": [asdict(one) for one in verdicts.secondary],
        "runs": [_row(found, run) for run in found.runs],
    })  # fmt: skip


def _row(found: Study, run: Run) -> dict[str, Any]:
    """Return what is in results.csv of a run."""
    return {
        "condition": run.label,
        "seed": run.seed,
        "state": run.state,
        "exit_reason": run.exit_reason,
        "value": found.final(run),
        "training_reward_end": study.tail_mean(run),
        "training_reward_area": study.area(run),
        "steps": int(run.lines[-1]["step"]) if run.lines else 0,
        "planned_steps": run.planned_steps,
        "tokens": run.total(TOKENS),
        "seconds": run.total(SECONDS),
        "directory": str(run.directory),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
