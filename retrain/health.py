"""Named rules over a run's metrics: each says by name what goes wrong, with the numbers and what to do about it.

    metrics.jsonl ──line by line──▶ rules ──▶ Diagnosed events, and `problems` in run.json

What health knows is a function of the lines alone, so that a resumed run rebuilds it by reading them again. A rule is
judged on lines that carry its keys; other lines say nothing. It opens an entry after `patience` broken lines in a row,
and closes it at the first of `recovery` sound ones in a row: a value that hovers around its limit makes one entry, not
many, and one odd batch makes none.

Elsewhere: values that are not finite stop a run (`retrain.trainer`); `retrain.watchdog` finds what stands still.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from retrain.events import Diagnosed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from retrain.config.schema import Health as Limits
    from retrain.config.schema import RunConfig

PATIENCE = 3  # broken lines in a row: single batches are noisy
RECOVERY = 10  # sound lines in a row
START_LINES = 5  # that the start of the entropy is the mean of
RISES = 3  # of the gap in a row
NOTICEABLE_ERRORS = 0.05  # share of completions without a reward: below, the mean reward is hardly moved
SOLVED = 0.9  # correct rate
LEAST_ROWS = 8  # completions that a correlation says something of
GROSS_P50, GROSS_OUTSIDE = 0.02, 0.25  # |Δ log p| and share outside [0.9, 1.1]: no precision explains more


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with one line."""

    message: str
    hint: str
    evidence: Mapping[str, float]


class Rule(ABC):
    """One way to go wrong.

    keys: what a line must carry to be judged; patience, recovery: see the module
    """

    name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    patience: int = PATIENCE
    recovery: int = RECOVERY

    def speaks(self, line: Mapping[str, float]) -> bool:
        """Whether this line says anything about the rule."""
        return all(key in line for key in self.keys)

    @abstractmethod
    def judge(self, line: Mapping[str, float]) -> Finding | None:
        """Return what is wrong, or None when the line is sound; called once for each line that speaks, in order."""


# --- completions ----------------------------------------------------------------------------------------------------


class Truncation(Rule):
    """More than `max_truncated_rate` of the completions are cut, 3 steps in a row: most answers are never given."""

    name, keys = "truncation", ("completion/truncated_rate",)

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.max_truncated_rate

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        rate = line["completion/truncated_rate"]
        if rate <= self.limit:
            return None
        return Finding(
            message=f"{rate:.0%} of the completions are cut at training.max_tokens, above {self.limit:.0%}",
            hint="raise training.max_tokens, or ask for shorter answers in data.instruction",
            evidence={"completion/truncated_rate": rate, "limit": self.limit},
        )


class Duplicates(Rule):
    """More than `max_duplicate_rate` of the completions equal another of their group, 3 steps in a row.

    And clearly more (by 0.1) than are right: right answers given twice are what solving a problem looks like.
    """

    name, keys = "duplicates", ("completion/duplicate_rate",)

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.max_duplicate_rate

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        rate = line["completion/duplicate_rate"]
        if rate <= self.limit or rate <= line.get("reward/correct_rate", 0.0) + 0.1:
            return None
        return Finding(
            message=f"{rate:.0%} of the completions equal another one of their group, above {self.limit:.0%}",
            hint="raise training.temperature or lower training.lr; for answers of a few tokens raise "
            "health.max_duplicate_rate",
            evidence={"completion/duplicate_rate": rate, "limit": self.limit},
        )


class EntropyCollapse(Rule):
    """The entropy is below `min_entropy_ratio` of its start, 3 steps in a row.

    The start is the mean of the first 5 lines that have one: a single batch is noisy, a later start would hide an early
    collapse. Where 9 of 10 answers are right, certainty is what was asked for: such lines are sound.
    """

    name, keys = "entropy_collapse", ("entropy/mean",)

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.min_entropy_ratio
        self.first: list[float] = []

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        entropy = line["entropy/mean"]
        if len(self.first) < START_LINES:
            self.first.append(entropy)
            return None
        start = statistics.fmean(self.first)
        if entropy >= self.limit * start or line.get("reward/correct_rate", 0.0) >= SOLVED:
            return None
        return Finding(
            message=f"the entropy is {entropy:.3g} nats, {entropy / start:.0%} of the {start:.3g} it started with, "
            f"below {self.limit:.0%}",
            hint="lower training.lr, raise algorithm.clip_eps_high (0.28) or set algorithm.kl_coef",
            evidence={"entropy/mean": entropy, "start": start, "limit": self.limit},
        )


class PlanningShare(Rule):
    """Fewer than `min_planning_share` of the tokens are planning, 5 steps in a row.

    Only lines of a pipeline that reads a planning mask (sepa, hicra) carry the key. Without planning tokens sepa takes
    away what gtpo would do, and hicra does nothing.
    """

    name, keys, patience = "planning_share", ("planning/share",), 5

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.min_planning_share

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        share = line["planning/share"]
        if share >= self.limit:
            return None
        return Finding(
            message=f"{share:.2%} of the tokens are planning, below {self.limit:.2%}: sepa and hicra have little to "
            "act on",
            hint="give phrases that this model uses in planning.strategic_grams, or take a mode without sepa and hicra",
            evidence={"planning/share": share, "limit": self.limit},
        )


# --- rewards --------------------------------------------------------------------------------------------------------


class Uninformative(Rule):
    """No group had anything to learn from for `max_uninformative_steps` steps in a row: the weights do not move."""

    name, keys = "uninformative", ("groups/informative",)

    def __init__(self, limits: Limits) -> None:
        self.patience = limits.max_uninformative_steps

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        if line["groups/informative"] > 0:
            return None
        right, wrong = line.get("groups/all_correct", 0.0), line.get("groups/all_wrong", 0.0)
        return Finding(
            message=f"no group had anything to learn from for {self.patience} steps "
            f"({wrong:.0%} all wrong, {right:.0%} all correct)",
            hint="take harder problems" if right > wrong else "take easier problems, or a larger training.group_size",
            evidence={"groups/informative": 0.0, "groups/all_correct": right, "groups/all_wrong": wrong},
        )


class LengthCorrelation(Rule):
    """Reward and length go together beyond `max_length_correlation`, 3 steps in a row: length may be what is learned.

    Batches of fewer than 8 completions are not judged: chance alone goes that far.
    """

    name, keys = "length_correlation", ("reward/length_correlation",)

    def __init__(self, limits: Limits, rows: int) -> None:
        self.limit, self.rows = limits.max_length_correlation, rows

    def speaks(self, line: Mapping[str, float]) -> bool:
        return self.rows >= LEAST_ROWS and super().speaks(line)

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        r = line["reward/length_correlation"]
        if abs(r) <= self.limit:
            return None
        kind, fear = ("longer", "pad their answers") if r > 0 else ("shorter", "leave out their reasoning")
        return Finding(
            message=f"{kind} completions get the higher reward: correlation {r:+.2f}, beyond ±{self.limit:g}",
            hint=f"do they {fear}? `retrain rollouts` shows some; if not, raise health.max_length_correlation",
            evidence={"reward/length_correlation": r, "limit": self.limit},
        )


class RewardErrors(Rule):
    """More than 5 % of the completions got no reward, 3 steps in a row: what is learned leaves those problems out."""

    name, keys = "reward_errors", ("reward/errors",)

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        errors, unscorable = line["reward/errors"], line.get("reward/unscorable", 0.0)
        if max(errors, unscorable) <= NOTICEABLE_ERRORS:
            return None
        return Finding(
            message=f"{max(errors, unscorable):.0%} of the completions got no reward, above {NOTICEABLE_ERRORS:.0%}",
            hint="the column `error` of the rollouts says why, and log.txt has the first traceback",
            evidence={"reward/errors": errors, "reward/unscorable": unscorable, "limit": NOTICEABLE_ERRORS},
        )


class Gap(Rule):
    """Train minus held-out reward widens: it rose three evaluations in a row, by more than 2 standard errors in all.

        g_{i-3} < g_{i-2} < g_{i-1} < g_i,   g_i - g_{i-3} > 2 sqrt(se_{i-3}² + se_i²),   g_i > 2 se_i

    se is that of the held-out score. A gap below zero that rises is a training mean that lags behind fast learning.
    The entry is closed when the gap is back within those 2 errors of where the rise began.
    """

    name, keys, patience, recovery = "gap", ("eval/gap", "eval/score_se"), 1, 1

    def __init__(self) -> None:
        self.last: deque[tuple[float, float, float]] = deque(maxlen=RISES + 1)  # step, gap, standard error
        self.began: tuple[float, float, float] | None = None

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        self.last.append((line["step"], line["eval/gap"], line["eval/score_se"]))
        now = self.last[-1]
        if self.began is None and len(self.last) > RISES:
            gaps = [gap for _, gap, _ in self.last]
            if gaps == sorted(set(gaps)) and _beyond(self.last[0], now) and now[1] > 2 * now[2]:
                self.began = self.last[0]
        if self.began is None:
            return None
        if not _beyond(self.began, now):
            self.began = None
            return None
        (first, before, before_error), (_, gap, error) = self.began, now
        return Finding(
            message=f"train minus held-out reward widened from {before:.3f} at step {first:.0f} to {gap:.3f}, by more "
            f"than 2 standard errors ({2 * math.hypot(before_error, error):.3f})",
            hint="it learns its problems by heart or games the reward: take more data, a stricter eval.reward, or the "
            "adapter of the best step (eval.keep_best)",
            evidence={"eval/gap": gap, "gap_before": before, "since_step": first, "eval/score_se": error},
        )


def _beyond(first: tuple[float, float, float], now: tuple[float, float, float]) -> bool:
    return now[1] - first[1] > 2 * math.hypot(first[2], now[2])


# --- the update -----------------------------------------------------------------------------------------------------


class UnchangedWeights(Rule):
    """Steps with a gradient change no weight, `max_unchanged_steps` in a row: updates are lost in rounding, or lr is 0.

    Steps without a gradient say nothing. A run whose `training.lr` is 0 is not judged: it asks for it.
    """

    name, keys = "unchanged_weights", ("policy/grad_norm", "policy/changed")

    def __init__(self, limits: Limits, lr: float) -> None:
        self.patience, self.lr = limits.max_unchanged_steps, lr

    def speaks(self, line: Mapping[str, float]) -> bool:
        return self.lr > 0 and super().speaks(line) and line["policy/grad_norm"] > 0

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        if line["policy/changed"] > 0:
            return None
        norm, lr = line["policy/grad_norm"], line.get("policy/lr", self.lr)
        return Finding(
            message=f"no weight changed in {self.patience} steps, although the gradient norm is {norm:.2g} "
            f"(learning rate {lr:.2g})",
            hint='raise training.lr, or train in more digits: model.dtype = "float32"',
            evidence={"policy/grad_norm": norm, "policy/changed": 0.0, "policy/lr": lr},
        )


class Ratio(Rule):
    """Sampler and trainer are different policies: at once, for no noise does that.

    Judged where every ratio should be 1: `num_iterations` = 1. At the first step the trainer itself compares and stops.
    """

    name, keys, patience = "ratio", ("ratio/p50", "ratio/outside"), 1

    def __init__(self, num_iterations: int) -> None:
        self.on_policy = num_iterations == 1

    def speaks(self, line: Mapping[str, float]) -> bool:
        return self.on_policy and super().speaks(line)

    def judge(self, line: Mapping[str, float]) -> Finding | None:
        p50, outside = line["ratio/p50"], line["ratio/outside"]
        if p50 <= GROSS_P50 and outside <= GROSS_OUTSIDE:
            return None
        return Finding(
            message=f"sampler and trainer disagree: |Δ log p| has the median {p50:.2g} (limit {GROSS_P50:g}) and "
            f"{outside:.0%} of the ratios lie outside [0.9, 1.1] (limit {GROSS_OUTSIDE:.0%})",
            hint='try inference.weights = "shared", or more precision: model.dtype = "float32"',
            evidence={"ratio/p50": p50, "ratio/outside": outside},
        )


def rules(config: RunConfig) -> list[Rule]:
    """Return the rules of a run, in the order in which they are told."""
    limits, training = config.health, config.training
    return [
        Ratio(config.algorithm.num_iterations),
        UnchangedWeights(limits, training.lr),
        RewardErrors(),
        Uninformative(limits),
        Truncation(limits),
        EntropyCollapse(limits),
        Duplicates(limits),
        LengthCorrelation(limits, training.batch_size * training.group_size),
        PlanningShare(limits),
        Gap(),
    ]


# --- watching -------------------------------------------------------------------------------------------------------


@dataclass
class _Watched:
    """A rule, and how it stands."""

    rule: Rule
    broken: int = 0  # lines in a row
    sound: int = 0
    sound_since: float = 0  # step of the first of them
    entry: dict[str, Any] | None = None  # the open one, in `problems`

    def take(self, line: Mapping[str, float]) -> Finding | None:
        """Judge a line that speaks; return the finding that opens an entry."""
        finding = self.rule.judge(line)
        if finding is not None:
            self.broken, self.sound = self.broken + 1, 0
            return finding if self.entry is None and self.broken >= self.rule.patience else None
        if not self.sound:
            self.sound_since = line["step"]
        self.broken, self.sound = 0, self.sound + 1
        if self.entry is not None and self.sound >= self.rule.recovery:
            self.entry["until"] = int(self.sound_since)
            self.entry = None
        return None


class Health:
    """Judges a run line by line, as the lines of metrics.jsonl come."""

    def __init__(self, config: RunConfig) -> None:
        self._entries: list[dict[str, Any]] = []
        self._watched = [_Watched(rule) for rule in rules(config)]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """All entries so far, oldest first, as in run.json: `until` is None while it lasts. Copies, to compare with."""
        return [dict(entry) for entry in self._entries]

    def observe(self, line: Mapping[str, float]) -> list[Diagnosed]:
        """Judge one line and return what is newly broken; `line` has `step` (steps done) and the step's metrics."""
        found = []
        for watched in self._watched:
            finding = watched.take(line) if watched.rule.speaks(line) else None
            if finding is None:
                continue
            told = Diagnosed(rule=watched.rule.name, step=int(line["step"]), **vars(finding))
            watched.entry = {**vars(told), "evidence": dict(told.evidence), "until": None}
            self._entries.append(watched.entry)
            found.append(told)
        return found

    def replay(self, lines: Iterable[Mapping[str, float]]) -> None:
        """Judge lines that were observed before, by the process that this one goes on for."""
        for line in lines:
            self.observe(line)
