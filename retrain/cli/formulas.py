"""The algorithm of a config, as lines of maths: rewards → advantages → tokens → loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain import registry
from retrain.config.transforms import asks_for, planned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrain.config.schema import Algorithm, RunConfig
    from retrain.config.transforms import Planned

SCALE: Mapping[str, str] = {
    "none": "",
    "group": "A ← A / (std(group) + 1e-4)",
    "batch": "A ← A / (std(batch) + 1e-4)",
}

CLIPPED = "−min(ρ·A, clip(ρ, 1 − {low:g}, 1 + {high:g})·A)"
MEAN_OF_MEANS = "mean over completions of the mean over their tokens"
MEAN_OF_ALL = "mean over all trained tokens of the batch"
LOSSES: Mapping[str, tuple[str, str]] = {
    "grpo": (CLIPPED, MEAN_OF_MEANS),
    "bnpo": (CLIPPED, MEAN_OF_ALL),
    "dr_grpo": (CLIPPED, "sum over the batch / (completions × max_tokens)"),
    "dapo": (CLIPPED, MEAN_OF_ALL),
    "cispo": ("−min(ρ, {high:g})·A·log π, the ratio held constant", MEAN_OF_ALL),
    "sapo": ("−(4/τ)·σ(τ·(ρ − 1))·A, τ of TRL", MEAN_OF_MEANS),
    "vespo": ("−φ(ρ)·A·log π, φ of TRL", MEAN_OF_ALL),
    "luspo": (CLIPPED, "mean over completions of the sum over their tokens"),
}
"""TRL's loss types: what one token costs, and how tokens are averaged. Held against the schema's choices by a test."""


def pipeline(config: RunConfig) -> list[str]:
    """Return one line per stage, in the order in which they act."""
    return [*baseline(config.algorithm), *transforms(config), *loss(config.algorithm)]


def baseline(algorithm: Algorithm) -> list[str]:
    entry = registry.names("baseline").get(algorithm.advantage_mode)
    lines = [entry.formula or entry.summary if entry else f"A = {algorithm.advantage_mode}(rewards, groups)"]
    if algorithm.advantage_mode == "grpo" and SCALE[algorithm.scale_rewards]:
        lines.append(SCALE[algorithm.scale_rewards])
    return lines


def transforms(config: RunConfig) -> list[str]:
    steps = planned(config)
    if not steps:
        return ["A_t = A on every token of the completion"]
    lines = ["A_t = A on every token of the completion, then"]
    if asks_for(steps, "uncertainty"):
        entry = registry.names("signal").get(config.algorithm.uncertainty_kind)
        lines.append(entry.formula or entry.summary if entry else f"H_t = {config.algorithm.uncertainty_kind}(batch)")
    return [*lines, *(line for step in steps for line in described(step, config))]


def described(step: Planned, config: RunConfig) -> list[str]:
    """Return a transform's formula; sepa's with its schedule in numbers."""
    if step.name != "sepa":
        return [step.formula]
    delay, steps = step.options.timing(config.training.max_steps)
    line = f"       λ = clip((step − {delay}) / {steps}, 0, 1)" if steps else "       λ = 0"
    if step.options.schedule == "auto":
        line += ", or earlier once the variance of execution tokens has fallen"
    return [step.formula, f"{line}; 0 until {step.options.correct_rate_gate:.0%} of a batch were right"]


def loss(algorithm: Algorithm) -> list[str]:
    low, high = algorithm.clip_eps, algorithm.clip_eps_high or algorithm.clip_eps
    token, average = LOSSES[algorithm.loss_type]
    ratio = "ρ = π/π_old of the token"
    if algorithm.importance_sampling_level == "sequence":
        ratio = "ρ = exp(mean over the completion of log π/π_old)"
    if algorithm.num_iterations == 1:
        ratio += ", which is 1: the policy that samples is the one that learns"
    penalty = f" + {algorithm.kl_coef:g}·KL(π, π_start)" if algorithm.kl_coef else ""
    return [f"loss = {token.format(low=low, high=high)}{penalty}", f"       {average} ({algorithm.loss_type})", ratio]
