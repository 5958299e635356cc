"""What a handful of seeds can tell: intervals, tests, verdicts, power.

The seed is the unit of replication. Arrays have seeds on their last axis and may have any axes before it, so that
`scripts/coverage` measures with thousands of campaigns at once the same functions that a report calls with one.

    paired difference   d_s = A_s - B_s on the n seeds that both have; t = mean(d) sqrt(n) / sd(d), n - 1 df
    test                Holm's step-down over the k comparisons with the baseline, at 5 % for all of them together
    interval            Bonferroni's, at 1 - 5 %/k each, so that all k hold together in 95 % of campaigns
    agreement           Holm may reject where Bonferroni's interval still holds 0: that interval is cut at 0

No bounded intervals belong to Holm's test exactly (Strassburger and Bretz, Statistics in Medicine 27, 2008; Guilbaud,
Biometrical Journal 50, 2008). With the cut, an interval excludes 0 exactly where Holm rejects, and its far end is
Bonferroni's. What that costs is measured: `retrain man compare`.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

ALPHA = 0.05  # for all comparisons together
POWER = 0.80  # what "can be detected" means
FEWEST = 4  # common seeds; with fewer there is no verdict
MOST_SEEDS = 10_000  # beyond that the answer to "how many" is: not this way
VERDICTS = ("cannot tell", "better", "worse", "equivalent")


class Interval(NamedTuple):
    """A mean and the interval around it; arrays of one shape. NaN: not known."""

    mean: Floats
    low: Floats
    high: Floats


def t_interval(values: ArrayLike, level: float = 1 - ALPHA) -> Interval:
    """Return mean(x) ± t_{n-1} sd(x) / sqrt(n) over the last axis; with one value the ends are NaN."""
    x = np.asarray(values, dtype=float)
    n = x.shape[-1]
    if n == 0:
        unknown = np.full(x.shape[:-1], math.nan)
        return Interval(unknown, unknown, unknown)
    mean = x.mean(axis=-1)
    if n == 1:
        return Interval(mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan))
    half = stats.t.ppf((1 + level) / 2, n - 1) * x.std(axis=-1, ddof=1) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def paired_p(differences: ArrayLike) -> Floats:
    """Return the two-sided p-value of the paired t-test; NaN where the differences do not vary."""
    d = np.asarray(differences, dtype=float)
    if d.shape[-1] < 2:
        return np.full(d.shape[:-1], math.nan)
    with warnings.catch_warnings(category=RuntimeWarning, action="ignore"):  # no spread: told by `varies`
        p = np.asarray(stats.ttest_1samp(d, 0.0, axis=-1)[1], dtype=float)
    return np.where(varies(d), p, math.nan)


def varies(differences: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether differences vary by more than rounding; those that do not say nothing about their uncertainty."""
    d = np.asarray(differences, dtype=float)
    if d.shape[-1] < 2:
        return np.zeros(d.shape[:-1], dtype=bool)
    return d.std(axis=-1, ddof=1) > 1e-12 * np.abs(d).max(axis=-1)


def holm(p: ArrayLike) -> Floats:
    """Adjust p-values over the last axis: the j-th smallest of k times k - j + 1, never below the one before.

    A NaN is a comparison that could not be tested: it counts among the k, and stays NaN.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p, dtype=float)
    k = p.shape[-1]
    order = np.argsort(np.where(np.isnan(p), np.inf, p), axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1) * (k - np.arange(k))
    adjusted = np.minimum(np.maximum.accumulate(ranked, axis=-1), 1.0)
    out = np.empty_like(p)
    np.put_along_axis(out, order, adjusted, axis=-1)
    return out


def simultaneous(interval: Interval, adjusted: ArrayLike) -> Interval:
    """Make Bonferroni intervals agree with Holm's test: 0 is outside exactly where the adjusted p is at most 5 %."""
    mean, low, high = interval
    rejected = np.asarray(adjusted) <= ALPHA
    beyond = np.where(mean > 0, 1.0, -1.0) * np.finfo(float).tiny  # open at 0
    low = np.where(rejected & (mean > 0) & (low <= 0), beyond, low)
    high = np.where(rejected & (mean < 0) & (high >= 0), beyond, high)
    return Interval(mean, low, high)


def verdicts(interval: Interval, wide: Interval, min_effect: float) -> NDArray[np.int64]:
    """Read verdicts off simultaneous intervals, as indices into `VERDICTS`.

    An interval inside ±min_effect is "equivalent": two-sided at 1 - 5 %/k, which is stricter than two one-sided tests
    at 5 %/k. A difference that Holm finds real has spent its 5 % already: it is called equivalent, and not better or
    worse, only where the `wide` interval, at 1 - 1 %/k, is inside too.
    """
    found = np.where(interval.low > 0, 1, np.where(interval.high < 0, 2, 0))
    inside, far_inside = ((i.low > -min_effect) & (i.high < min_effect) for i in (interval, wide))
    return np.where(np.where(found > 0, far_inside, inside), 3, found)


def compare(differences: Sequence[ArrayLike], min_effect: float = 0.0) -> tuple[Floats, Interval, NDArray[np.int64]]:
    """Compare k conditions with the baseline: return adjusted p-values, simultaneous intervals and verdicts [..., k].

    differences: k arrays [..., n], n may differ. Where they do not vary, p and interval are NaN: cannot tell.
    """
    k = len(differences)
    adjusted = holm(np.stack([paired_p(d) for d in differences], axis=-1))
    interval, wide = (_intervals(differences, 1 - share * ALPHA / k) for share in (1.0, 0.2))
    interval = simultaneous(interval, adjusted)
    return adjusted, interval, verdicts(interval, wide, min_effect)


def _intervals(differences: Sequence[ArrayLike], level: float) -> Interval:
    """Return the t-intervals of several comparisons; without ends where differences do not vary."""
    intervals = [t_interval(d, level) for d in differences]
    known = np.stack([varies(d) for d in differences], axis=-1)
    mean, low, high = (np.stack(parts, axis=-1) for parts in zip(*intervals, strict=True))
    return Interval(mean, np.where(known, low, math.nan), np.where(known, high, math.nan))


# --- which is more often above the other ------------------------------------------------------------------------------


def improvement(differences: ArrayLike) -> tuple[float, float, float]:
    """Return the probability that A is above B on a new seed: its estimate, and an exact 95 % interval.

    The share of common seeds with d > 0, a tie counting half. Clopper and Pearson's interval; with ties its lower end
    takes them all for losses and its upper end for wins.

    Source: after Agarwal et al., arXiv 2108.13264, here on pairs of one seed because conditions share their prompts.
    """
    d = np.asarray(differences, dtype=float)
    n, wins, ties = len(d), int((d > 0).sum()), int((d == 0).sum())
    if n == 0:
        return math.nan, math.nan, math.nan
    return (wins + ties / 2) / n, _exact(wins, n)[0], _exact(wins + ties, n)[1]


@functools.lru_cache(maxsize=1024)
def _exact(wins: int, n: int) -> tuple[float, float]:
    """Return Clopper and Pearson's 95 % interval of a share."""
    found = stats.binomtest(wins, n).proportion_ci(1 - ALPHA, method="exact")
    return float(found.low), float(found.high)


# --- power ------------------------------------------------------------------------------------------------------------


def power(effect: float, num_seeds: int, comparisons: int = 1) -> float:
    """Return the chance that Holm's first step at 5 %/k sees a true difference of `effect` standard deviations.

    1 - F(t*), F the noncentral t with n - 1 degrees of freedom and noncentrality effect sqrt(n), t* the two-sided
    critical value: a rejection with the wrong sign does not count. Holm's later steps are easier, so that with several
    comparisons this is a lower bound.
    """
    df = num_seeds - 1
    critical = stats.t.isf(ALPHA / comparisons / 2, df)
    return float(stats.nct.sf(critical, df, effect * math.sqrt(num_seeds)))


@functools.lru_cache(maxsize=1024)
def detectable(num_seeds: int, comparisons: int = 1) -> float:
    """Return the smallest difference seen with 80 % power, in standard deviations of the paired difference.

    inf: with fewer than four seeds there is no verdict.
    """
    if num_seeds < FEWEST:
        return math.inf
    enough = 1 / math.sqrt(num_seeds)
    while power(enough, num_seeds, comparisons) < POWER:
        enough *= 1.5
    found = optimize.root_scalar(lambda effect: power(effect, num_seeds, comparisons) - POWER, bracket=(0.0, enough))
    return float(found.root)


def seeds_needed(effect: float, comparisons: int = 1) -> int | None:
    """Return how many seeds see a difference of `effect` standard deviations with 80 % power; None: over 10,000."""
    if effect <= 0 or detectable(MOST_SEEDS, comparisons) > effect:
        return None
    low, high = FEWEST - 1, MOST_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(middle, comparisons) <= effect else (middle, high)
    return high


def spread(differences: ArrayLike) -> tuple[float, float, float]:
    """Return the standard deviation of the differences and its 95 % interval (chi-squared; it assumes normality)."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        return math.nan, math.nan, math.nan
    sd = float(d.std(ddof=1))
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (1 - ALPHA / 2, ALPHA / 2))
    return sd, float(low), float(high)
