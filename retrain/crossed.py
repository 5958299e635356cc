"""Would a difference hold on other problems too? Seeds × problems, both of them samples.

A condition and its baseline answer the same m problems with the same n seeds. D[s, i] is their difference on problem i
with seed s, and the parts of

    D[s, i] = difference + seed_s + problem_i + rest_si

are all random. With the mean squares of this two-way table, MS_s = m · var(means of seeds), MS_i = n · var(means of
problems) and MS_e of the rest, the mean of D has

    se² = (MS_s + max(MS_i − MS_e, 0)) / (n m),   df = (n − 1) (MS_s + max(MS_i − MS_e, 0))² / MS_s²

Without its second term that is the interval over seeds (`retrain.seeds`): other seeds on these problems. This one is
about other seeds on other problems like these, and never narrower than that.

Source: the analysis of radiologists × patients, Dorfman, Berbaum and Metz, Investigative Radiology 27 (1992), with the
degrees of freedom of Hillis, Statistics in Medicine 26 (2007). Drawing seeds and problems with replacement (Owen,
Annals of Applied Statistics 1, 2007) estimates about the same variance, but its percentiles do not know how uncertain
so few seeds leave it: `retrain man compare` has the rates of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from retrain import evaluations, seeds
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from retrain.evaluations import Problem
    from retrain.study import Run, Study

    Floats = NDArray[np.float64]

FEWEST = 2  # problems; one has no spread


def interval(differences: ArrayLike, level: float = 1 - seeds.ALPHA) -> seeds.Interval:
    """Return the mean of D [..., n, m] and its interval over seeds and problems; NaN where seeds do not vary."""
    d = np.asarray(differences, dtype=float)
    n, m = d.shape[-2:]
    by_seed, by_problem, mean = d.mean(axis=-1), d.mean(axis=-2), d.mean(axis=(-2, -1))
    unknown = np.full_like(mean, math.nan)
    if n < 2 or m < FEWEST:
        return seeds.Interval(mean, unknown, unknown)
    rest = d - by_seed[..., :, None] - by_problem[..., None, :] + mean[..., None, None]
    ms_seeds = m * by_seed.var(axis=-1, ddof=1)
    ms_problems = n * by_problem.var(axis=-1, ddof=1)
    ms_rest = (rest**2).sum(axis=(-2, -1)) / ((n - 1) * (m - 1))
    known = seeds.varies(by_seed)
    ms_seeds = np.where(known, ms_seeds, 1.0)
    total = ms_seeds + np.maximum(ms_problems - ms_rest, 0.0)
    both = _half(total, (n - 1) * (total / ms_seeds) ** 2, n * m, level)
    half = np.where(known, np.maximum(both, _half(ms_seeds, n - 1, n * m, level)), math.nan)
    return seeds.Interval(mean, mean - half, mean + half)


def _half(mean_square: Floats, freedom: ArrayLike, values: int, level: float) -> Floats:
    return stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(mean_square / values)


# --- of a study -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Problems:
    """What every run of a study scored on each problem, at the planned last step.

    values:   by condition and seed, over the problems that all runs could score, in one order
    left_out: problems that some run could not score
    reason:   why there are none; "" where there are
    """

    values: Mapping[str, Mapping[int, Floats]] = field(default_factory=dict)
    count: int = 0
    left_out: int = 0
    reason: str = ""

    def ends(self, label: str, baseline: str, common: Sequence[int], level: float) -> tuple[float, float]:
        """Return the interval of a condition's difference to the baseline, on common seeds; NaN: not known."""
        if self.reason or not common:
            return math.nan, math.nan
        d = [self.values[label][seed] - self.values[baseline][seed] for seed in common]
        _, low, high = interval(d, level)
        return float(low), float(high)


def problems(found: Study) -> Problems:
    """Read the answers to each problem of all runs that have a value; `reason` says why that is of no use."""
    try:
        return _problems(found)
    except ConfigError as error:
        return Problems(reason=error.problems[0].message)


def _problems(found: Study) -> Problems:
    runs = {
        label: {seed: [run for run in found.of(label) if run.seed == seed] for seed in found.values(label, found.final)}
        for label in found.labels
    }
    tables = _tables(found, [run for by_seed in runs.values() for many in by_seed.values() for run in many])
    order = sorted(next(iter(tables.values())))
    usable = [problem for problem in order if all(table[problem] is not None for table in tables.values())]
    if len(usable) < FEWEST:
        raise ConfigError(f"{len(usable)} of {len(order)} problems could be scored in all runs")
    scores = {name: np.array([table[problem] for problem in usable], dtype=float) for name, table in tables.items()}
    values = {
        label: {
            seed: np.mean([scores[run.directory] for run in many if run.directory in scores], axis=0)
            for seed, many in by_seed.items()
        }
        for label, by_seed in runs.items()
    }
    return Problems(values=values, count=len(usable), left_out=len(order) - len(usable))


def _tables(found: Study, runs: Sequence[Run]) -> dict[Path, dict[Problem, float | None]]:
    """Return what each finished run scored on each problem, by its directory.

    Raises:
        ConfigError: there is no such table of each, or they are about different problems.
    """
    part, _, metric = found.metric.partition("/")
    if part not in evaluations.PARTS or not evaluations.is_of_tasks(metric):
        raise ConfigError(f"{found.metric} is not a mean over held-out problems")
    if any(run.state == "failed" for run in runs):
        raise ConfigError("runs that failed have no answers, and count at the floor")
    done = [run for run in runs if run.state == "done"]
    tables = {}
    for run in done:
        answers = evaluations.read(run.directory, part, run.planned_steps)
        if answers is not None:
            tables[run.directory] = dict(
                zip(answers, evaluations.of_tasks(metric, list(answers.values())), strict=True)
            )
    if len(tables) < len(done) or not done:
        missing = len(done) - len(tables)
        raise ConfigError(
            f"{missing} of {len(done)} runs kept no answers to single problems" if done else "no run is finished"
        )
    if len({frozenset(table) for table in tables.values()}) > 1:
        raise ConfigError("the runs were asked different problems, or in different words")
    return tables
