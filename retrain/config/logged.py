"""Which metrics the runs of a config will have in the line of their last step: what `campaign.metric` may name.

What a reward, a source or a transform of one's own logs cannot be known before it runs: any name of it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrain import metrics, registry
from retrain.config.check import CLIPPED, OWN_REWARD
from retrain.config.transforms import planned
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.config.origins import Origin
    from retrain.config.schema import RunConfig


@dataclass(frozen=True)
class Some:
    """Metrics that a run has together or not at all. why_not: the reason, and what to set; empty: it has them."""

    keys: Sequence[str]
    why_not: tuple[str, str] | None = None


def passes(samples: int) -> list[int]:
    """Return the k of pass@k: the powers of two up to the number of samples, and that number."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


def logged(config: RunConfig) -> Iterator[Some]:
    """Yield all metrics that the program itself may write at the last step, with the reason why this run does not."""
    algorithm, wanted, steps = config.algorithm, config.eval, planned(config)
    names = {step.name for step in steps}
    yield Some(metrics.written("step"))
    generates = (config.training.max_steps - 1) % algorithm.num_iterations == 0
    reason = f"the last step generates nothing, with algorithm.num_iterations = {algorithm.num_iterations}"
    length = config.training.max_steps - (config.training.max_steps - 1) % algorithm.num_iterations
    yield Some(metrics.written("batch"), None if generates else (reason, f"such as training.max_steps = {length}"))
    off = ("eval.every = 0 turns evaluation off", 'set eval.every, or metric = "reward/mean"')
    measured = [f"eval/{name}" for name in _evaluated(config)]
    yield Some([*measured, "eval/gap", "time/evaluate"], None if wanted.every else off)
    tested = [f"test/{name}" for name in _evaluated(config)]
    off = ("eval.final_test is false", "set eval.final_test = true")
    yield Some([*tested, "time/test"], None if wanted.final_test else off)
    looks = any(step.entry is not None and "planning_mask" in step.entry.requires for step in steps)
    off = ("no transform looks for planning tokens", 'such as transform_mode = "gtpo_sepa"')
    yield Some(metrics.written("planning"), None if looks else off)
    for name in registry.names("transform"):
        keys = metrics.written(name)
        yield Some(keys, None if name in names else (f"{name} is not one of the transforms", "take another metric"))
    yield Some(metrics.written("kl"), None if algorithm.kl_coef else ("algorithm.kl_coef is 0", "set kl_coef"))
    clips = algorithm.loss_type in (*CLIPPED, "cispo")
    loss = f'algorithm.loss_type = "{algorithm.loss_type}" does not clip'
    yield Some(metrics.written("clipping"), None if clips else (loss, "take another metric"))


def _evaluated(config: RunConfig) -> list[str]:
    means = ["score", *(f"pass_at_{k}" for k in passes(config.eval.samples))]
    if config.eval.reward not in ("", config.reward.type or OWN_REWARD.get(config.data.source)):
        means.append("reward")
    return [*means, *(f"{name}_se" for name in means), "length_mean", "truncated_rate", "unscorable"]


def may_name_own(config: RunConfig, metric: str) -> bool:
    """Tell whether something of the user's may log a metric: a reward's part, or whatever a transform measures."""
    reward, source = config.reward.type, config.data.source
    own = reward not in registry.BUILTIN["reward"] if reward else source not in registry.BUILTIN["data"]
    family, _, name = metric.partition("/")
    if family == "reward" and name and own:
        return True
    return any(not step.is_built_in for step in planned(config))


def metric_problem(metric: str, config: RunConfig, at: Origin, shown: str) -> Problem | None:
    """Return what is wrong with comparing runs of this config by a metric; None: they will have it.

    shown: what the metric was given as, such as `campaign.metric = "eval/scor"`
    """
    every = list(logged(config))
    known = [key for some in every if some.why_not is None for key in some.keys]
    if metric in known or may_name_own(config, metric):
        return None
    for some in every:
        if some.why_not is not None and metric in some.keys:
            reason, hint = some.why_not
            return at.problem(f"{shown} will not be measured: {reason}", hint, "campaign.metric")
    near = nearest(metric, known)
    question = f'; did you mean "{near}"?' if near else ""
    return at.problem(f"{shown} is no metric of these runs{question}", ", ".join(known), "campaign.metric")
