"""The trials of a search, best first: what each tried and what came of it. No verdict: nothing here is repeated enough.

A trial's value is the mean over its seeds of the metric at the planned last step; it has one only when all of its runs
are done and measured it. The best of n noisy values lies above what it would be worth on other seeds, so a ranking ends
in a campaign that finds out: the best trial against what the search started from, on seeds that it has not seen.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from retrain import study
from retrain.config import toml
from retrain.errors import ConfigError
from retrain.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.study import Run

NAME = "optuna"  # the sweeper of a campaign that is a search
BEST = "best.toml"  # in the campaign's directory
NEW_SEEDS = (101, 202, 303, 404, 505, 606, 707, 808, 909, 1010)
SEEDS_AGAIN = 5  # with which the best is tried again


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration, and what came of it. `value` is None where there is none, yet or at all."""

    label: str
    values: Mapping[str, Any]
    overrides: Sequence[str]
    state: str  # "done"; "failed": it has no value and gets none; else as its runs are
    value: float | None
    by_seed: Mapping[int, float]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All trials of a search, best first, those without a value at the end."""

    name: str
    directory: Path
    state: str  # of the campaign
    metric: str
    direction: str
    sampler: Mapping[str, Any]
    seeds: Sequence[int]
    wanted: int
    trials: Sequence[Trial]
    runs: Sequence[Run] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Trial | None:
        return self.trials[0] if self.trials and self.trials[0].value is not None else None

    @property
    def valued(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.value is not None]

    @property
    def names(self) -> list[str]:
        """What is searched."""
        return list(self.trials[0].values) if self.trials else []

    @property
    def headline(self) -> str:
        """The whole answer in a line."""
        if self.best is None:
            return f"No trial has a value yet: {len(self.trials)} of {self.wanted} trials have been asked for."
        so_far = "" if len(self.valued) + len(self.of("failed")) == self.wanted else "So far the "
        head = f"{so_far}best" if so_far else "Best"
        number = f"{len(self.valued)} trials" if not so_far else f"{len(self.valued)} of {self.wanted} trials"
        return f"{head} of {number}: {self.best.label} with {self.metric} {self.best.value:.4g}."

    @property
    def again(self) -> str:
        """The command that finds out whether the best is better; empty while there is none."""
        return f"retrain {shlex.quote(str(self.directory / BEST))}" if self.best else ""

    def of(self, state: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == state]

    def warnings(self) -> list[str]:
        """Return what a reader has to be careful with."""
        found, number = [], len(self.valued)
        if number > 1:
            found.append(
                f"The best of {number} trials looks better than it is: were all of them equally good, the best would "
                f"still lie about {luck(number):.1f} standard deviations of the noise above their mean. This is a "
                "ranking, not a verdict."
            )
        if failed := self.of("failed"):
            found.append(f"{len(failed)} of {len(self.trials)} trials failed; they have no value.")
        if len(self.seeds) == 1 and number:
            found.append(f"Each trial has one run, with seed {self.seeds[0]}: how much is luck cannot be seen here.")
        return found


def is_search(directory: Path) -> bool:
    """Tell whether a campaign is a search."""
    try:
        manifest = study.read_manifest(directory)
    except ConfigError:
        return False
    campaign = manifest.get("campaign")
    return isinstance(campaign, Mapping) and campaign.get("sweeper") == NAME


def luck(number: int) -> float:
    """Return the expected largest of so many standard normal numbers (Blom's approximation)."""
    return statistics.NormalDist().inv_cdf((number - 0.375) / (number + 0.25))


def load(directory: Path, metric: str = "") -> Ranking:
    """Read a search.

    metric: what to rank by; "": what the campaign declares

    Raises:
        ConfigError: its manifest is damaged, or there is no such metric.
    """
    manifest = study.read_manifest(directory)
    campaign = manifest["campaign"]
    options = campaign["sweeper_options"]
    runs = study.of_campaign(directory, manifest)
    if metric:
        study.check_metric(metric, runs)
    metric = metric or str(campaign["metric"])
    trials = [
        _trial(condition, [run for run in runs if run.label == condition["label"]], metric)
        for condition in manifest["conditions"]
    ]
    sign = -1.0 if options["direction"] == "maximize" else 1.0
    trials.sort(key=lambda trial: math.inf if trial.value is None else sign * trial.value)
    return Ranking(
        name=str(manifest.get("name") or directory.name),
        directory=directory,
        state=str(manifest.get("state")),
        metric=metric,
        direction=options["direction"],
        sampler=options["sampler"],
        seeds=campaign["seeds"],
        wanted=options["n_trials"],
        trials=trials,
        runs=runs,
        manifest=manifest,
    )


def _trial(condition: Mapping[str, Any], runs: Sequence[Run], metric: str) -> Trial:
    found = {run.seed: study.at_last_step(run, metric) for run in runs if run.state == "done"}
    by_seed = {seed: value for seed, value in found.items() if value is not None}
    states = [run.state for run in runs]
    is_whole = bool(runs) and len(by_seed) == len(runs)
    state = next((name for name in ("failed", "running", "interrupted", "planned") if name in states), "done")
    if state == "done" and not is_whole:
        state = "failed"
    reasons = [run.exit_reason for run in runs if run.state == "failed"]
    reasons += [f"{run.name} has no {metric} at its last step" for run in runs if found.get(run.seed, 0.0) is None]
    return Trial(
        label=condition["label"],
        values=condition["values"],
        overrides=condition["overrides"],
        state=state,
        value=statistics.fmean(by_seed.values()) if is_whole else None,
        by_seed=by_seed,
        reason=reasons[0].strip().partition("\n")[0] if reasons else "",
    )


# --- finding out ------------------------------------------------------------------------------------------------------


def write_best(found: Ranking) -> None:
    """Write the campaign that compares the best trial with the start of the search; nothing while there is none."""
    if found.best is None:
        return
    base = toml.read(found.directory / "campaign.toml", "campaign.toml").table
    campaign = {
        name: value
        for name, value in base.pop("campaign").items()
        if name not in ("sweeper", "sweeper_options", "space")
    }
    campaign["seeds"] = [seed for seed in NEW_SEEDS if seed not in found.seeds][:SEEDS_AGAIN]
    campaign["conditions"] = [
        {"name": "start", "overrides": []},
        {"name": found.best.label, "overrides": list(found.best.overrides)},
    ]
    sense = (
        "" if found.direction == "maximize" else "# Small values are good here: what compare calls worse is better.\n"
    )
    head = (
        f"# The best trial of {found.name} against what the search started from, on seeds that it has not seen.\n"
        f"# The held-out problems are the ones that the trials were chosen by.\n{sense}\n"
    )
    write_atomically(found.directory / BEST, head + toml.write({**base, "campaign": campaign}))


# --- for programs -----------------------------------------------------------------------------------------------------


def document(found: Ranking) -> dict[str, Any]:
    """Return everything as plain values for JSON. Its keys are a public contract."""
    return {
        "format": 1,
        "name": found.name,
        "headline": found.headline,
        "metric": found.metric,
        "direction": found.direction,
        "sampler": dict(found.sampler),
        "seeds": list(found.seeds),
        "n_trials": found.wanted,
        "warnings": found.warnings(),
        "best": found.best.label if found.best else None,
        "trials": [asdict(trial) for trial in found.trials],
        "again": found.again,
    }
