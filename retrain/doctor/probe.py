"""What the loaded model does before it is trained (`retrain.doctor.sampling`), and what that means for the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from retrain import estimate
from retrain.doctor.finding import Found, NotKnownError, fail, of_problem, ok, skipped, warn
from retrain.estimate import gigabytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain.config.schema import RunConfig
    from retrain.doctor.subject import Subject
    from retrain.errors import RunError

FEW_INFORMATIVE = 0.1  # share of groups; below it most of what is generated teaches nothing


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What was measured.

    batches:       metrics of each sampled batch, as in metrics.jsonl
    ratios:        of the ratio contract; refused: why it does not hold
    train_seconds: one forward and backward pass over a batch; None: it was not done to the end
    peak_bytes:    the most that was allocated on a GPU; None: on the CPU
    halvings:      what had to be made smaller to fit into memory
    """

    batches: Sequence[Mapping[str, float]]
    prompts: int
    completions: int
    load_seconds: float
    held_out: int
    ratios: Mapping[str, float]
    refused: RunError | None
    train_seconds: float | None
    peak_bytes: int | None
    halvings: Sequence[str]

    def mean(self, key: str) -> float:
        """Return the mean of a metric over the batches that have it; NaN: none has."""
        values = [batch[key] for batch in self.batches if key in batch]
        return fmean(values) if values else math.nan


# --- the checks -----------------------------------------------------------------------------------------------------


def loads(subject: Subject) -> Found:
    """Load the model and sample, unless that would download it."""
    found = subject.run_probe()
    said = f"{found.completions:,} completions of {found.prompts} prompts, loaded in {found.load_seconds:.0f} s"
    if found.halvings:
        return warn(f"{said}; {'; '.join(found.halvings)}", "a smaller training.micro_batch_size saves the attempts")
    peak = f", at most {gigabytes(found.peak_bytes)} allocated" if found.peak_bytes is not None else ""
    return ok(said + peak)


def informative(subject: Subject) -> Found:
    """Tell in how many groups the rewards differ: only those teach anything."""
    found = subject.probed
    right, wrong = found.mean("groups/all_correct"), found.mean("groups/all_wrong")
    told = found.mean("groups/informative")
    said = f"{told:.0%} of the groups; {right:.0%} are all correct, {wrong:.0%} all wrong"
    if told >= FEW_INFORMATIVE:
        return ok(said)
    fix = "easier problems, or a model that solves some" if wrong >= right else "harder problems"
    return warn(said, f"{fix}; a larger training.group_size helps a little")


def correct(subject: Subject) -> Found:
    """Tell how often the model is right before it is trained."""
    found = subject.probed
    rate, unscorable = found.mean("reward/correct_rate"), found.mean("reward/unscorable")
    if math.isnan(rate):
        return fail("no completion could be scored", "see the check of the reward")
    said = f"{rate:.1%}, mean reward {found.mean('reward/mean'):.3g}"
    if unscorable > 0:
        return warn(f"{said}; {unscorable:.1%} could not be scored", "such completions are left out of training")
    return ok(said)


def truncated(subject: Subject) -> Found:
    """Tell how many completions are cut at max_tokens."""
    found, config = subject.probed, subject.config
    rate = found.mean("completion/truncated_rate")
    said = f"{rate:.1%} of completions are cut at {config.training.max_tokens} tokens, their mean is "
    said += f"{found.mean('completion/length_mean'):.0f}"
    if rate > config.health.max_truncated_rate:
        return warn(said, f"--max-tokens {2 * config.training.max_tokens}")
    return ok(said)


def speed(subject: Subject) -> Found:
    """Tell how fast completions are sampled, scored and trained on."""
    found = subject.probed
    tokens, seconds = found.mean("tokens/generated"), found.mean("time/generate")
    said = f"{tokens / seconds:,.0f} tokens/s; a batch takes {seconds:.2g} s to generate, "
    said += f"{found.mean('time/score'):.2g} s to score"
    return ok(said + (f", {found.train_seconds:.2g} s for the gradient" if found.train_seconds is not None else ""))


def ratio(subject: Subject) -> Found:
    """Tell whether sampler and trainer score the same distribution."""
    found = subject.probed
    if found.refused is not None:
        return of_problem(found.refused.problems[0])
    if not found.ratios:
        return skipped("no token was compared")
    p50, p95, p99 = (found.ratios[f"ratio/{name}"] for name in ("p50", "p95", "p99"))
    outside = found.ratios["ratio/outside"]
    return ok(f"|Δ log p| of sampler and trainer: p50 {p50:.1e}, p95 {p95:.1e}, p99 {p99:.1e}; {outside:.1%} outside")


def projected(subject: Subject) -> Found:
    """Project the duration of the whole run from what was measured."""
    found = subject.probed
    if found.train_seconds is None:
        raise NotKnownError("the probe did not get so far")
    seconds = run_seconds(subject.config, found)
    said = f"about {seconds / 3600:.1f} h" if seconds >= 3600 else f"about {max(1, round(seconds / 60))} min"
    return ok(f"{said} for each of {subject.runs} runs" if subject.runs > 1 else said)


def run_seconds(config: RunConfig, found: Probed) -> float:
    """Return seconds: batches generated and scored, steps, evaluations at the same rate, and loading once."""
    assert found.train_seconds is not None, "the caller has looked"
    volume = estimate.volume(config)
    per_batch = found.mean("time/generate") + found.mean("time/score")
    evaluated = estimate.evaluations(config) * found.held_out * config.eval.samples
    per_completion = per_batch / volume.completions_per_step
    stepping = config.training.max_steps * found.train_seconds
    return found.load_seconds + volume.generated_batches * per_batch + stepping + evaluated * per_completion
