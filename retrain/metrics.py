"""Every metric of a run, once: the keys of metrics.jsonl with their unit and meaning.

The same keys are in the tracker, in `retrain status` and in reports. A key in angle brackets stands for many:
``reward/<part>`` is one for each part that a reward of one's own returns. What cannot be measured in a step, such as
the mean of no reward, is not in its line. A plugin may log more; `find` then returns None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What a key says.

    unit: a "share" is from 0 to 1, and its meaning begins with "of"; "reward" is what the reward function counts in;
          "" is a plain number
    when: which runs and steps have it: "line" (every line), "step" (every optimiser step), "batch" (a step that
          generates), a transform's name, and what `config.logged` says of the others
    """

    unit: str
    meaning: str
    when: str = "batch"


METRICS: dict[str, Metric] = {
    "step": Metric(
        "steps", "optimiser steps done; a line of step 0 holds the evaluation before the first", when="line"
    ),
    "time": Metric("unix seconds", "when the line was written", when="line"),
    "reward/mean": Metric("reward", "mean reward of the completions that could be scored"),
    "reward/std": Metric("reward", "standard deviation of these rewards"),
    "reward/correct_rate": Metric("share", "of scored completions with a reward above 0.5"),
    "reward/errors": Metric("share", "of completions whose reward function failed"),
    "reward/unscorable": Metric("share", "of completions without a reward, for whatever reason"),
    "reward/length_correlation": Metric("−1 to 1", "Pearson's correlation of reward and length"),
    "reward/<part>": Metric("reward", "mean of one part of a reward of your own", when="own"),
    "groups/all_correct": Metric("share", "of groups whose completions all have the same reward, above 0.5"),
    "groups/all_wrong": Metric("share", "of groups whose completions all have the same reward, up to 0.5"),
    "groups/informative": Metric("share", "of groups with rewards that differ: only they teach something"),
    "completion/length_mean": Metric("tokens", "mean length of a completion"),
    "completion/length_max": Metric("tokens", "length of the longest completion"),
    "completion/truncated_rate": Metric("share", "of completions cut at training.max_tokens"),
    "completion/duplicate_rate": Metric("share", "of completions equal to another one of their group"),
    "advantage/max_abs": Metric("", "largest advantage of a token, either sign"),
    "entropy/mean": Metric("nats", "entropy of the policy over the vocabulary, mean over tokens"),
    "entropy/execution": Metric("nats", "mean entropy of tokens that are no planning", when="planning"),
    "entropy/execution_variance": Metric(
        "nats²", "variance of the entropy over tokens that are no planning", when="planning"
    ),
    "entropy/planning": Metric("nats", "mean entropy of planning tokens", when="planning"),
    "entropy/planning_variance": Metric("nats²", "variance of the entropy over planning tokens", when="planning"),
    "planning/share": Metric("share", "of tokens in planning phrases; where sepa or hicra is on", when="planning"),
    "sepa/lambda": Metric("0 to 1", "how far sepa evens execution tokens out: 0 not at all, 1 wholly", when="sepa"),
    "sepa/execution_variance": Metric(
        "", "variance of execution tokens' uncertainty before sepa, mean over completions", when="sepa"
    ),
    "gtpo/clamped_share": Metric("share", "of tokens whose weight gtpo clamped to 0", when="gtpo"),
    "entropy_mask/kept_share": Metric(
        "share", "of tokens that keep their advantage under entropy_mask", when="entropy_mask"
    ),
    "clip/clipped_share": Metric("share", "of tokens whose advantage clip bounded", when="clip"),
    "ratio/p50": Metric("nats", "median over tokens of abs(Δ log p) between trainer and sampler"),
    "ratio/p95": Metric("nats", "95th percentile over tokens of abs(Δ log p)"),
    "ratio/p99": Metric("nats", "99th percentile over tokens of abs(Δ log p)"),
    "ratio/outside": Metric("share", "of tokens whose ratio of trainer to sampler is outside [0.9, 1.1]"),
    "policy/loss": Metric("", "TRL's policy loss", when="step"),
    "policy/grad_norm": Metric("", "norm of the gradient before it is clipped", when="step"),
    "policy/lr": Metric("", "learning rate of the step", when="step"),
    "policy/changed": Metric("share", "of trained tensors that the step changed", when="step"),
    "policy/kl": Metric("nats", "KL divergence from the starting model; where algorithm.kl_coef is above 0", when="kl"),
    "policy/clip_share": Metric(
        "share", "of tokens whose ratio was clipped; for the loss types that clip", when="clipping"
    ),
    "tokens/generated": Metric("tokens", "sampled for the step, all completions together"),
    "tokens/trained": Metric("tokens", "tokens of completions that went through a backward pass", when="step"),
    "time/generate": Metric("seconds", "spent sampling"),
    "time/score": Metric("seconds", "spent on rewards"),
    "time/train": Metric("seconds", "the rest of the step: the update", when="step"),
    "time/total": Metric("seconds", "the step, without evaluation", when="step"),
    "time/evaluate": Metric("seconds", "spent on the held-out score", when="evaluation"),
    "time/test": Metric("seconds", "spent on the test split", when="test"),
    "cost/money": Metric(
        "the backend's currency", "spent since the last line; of a backend that has prices", when="own"
    ),
    "eval/score": Metric(
        "reward", "held-out score: mean over problems of the mean reward of their completions", when="evaluation"
    ),
    "eval/score_se": Metric("reward", "standard error of the held-out score, over problems", when="evaluation"),
    "eval/gap": Metric(
        "reward", "mean training reward since the last evaluation, minus the held-out score", when="evaluation"
    ),
    "eval/reward": Metric(
        "reward", "held-out mean of the training reward; where eval.reward is another one", when="evaluation"
    ),
    "eval/reward_se": Metric("reward", "standard error of eval/reward, over problems", when="evaluation"),
    "eval/pass_at_<k>": Metric(
        "0 to 1", "chance that k completions of a problem hold a correct one (pass@k)", when="evaluation"
    ),
    "eval/pass_at_<k>_se": Metric("0 to 1", "standard error of pass@k, over problems", when="evaluation"),
    "eval/length_mean": Metric("tokens", "mean length of a held-out completion", when="evaluation"),
    "eval/truncated_rate": Metric("share", "of held-out completions cut at eval.max_tokens", when="evaluation"),
    "eval/unscorable": Metric("share", "of held-out completions without a reward", when="evaluation"),
    "test/<name>": Metric("", "as eval/NAME, on the test split, once at the end; with eval.final_test", when="test"),
}
"""Key → what it says, in the order in which they are explained."""

_STANDS_FOR = {"<part>": ".+", "<name>": ".+", "<k>": r"\d+"}
_PATTERNS = {
    re.compile(re.sub(r"<\w+>", lambda found: _STANDS_FOR[found[0]], key)): metric
    for key, metric in METRICS.items()
    if "<" in key
}


def find(key: str) -> Metric | None:
    """Return what a key of metrics.jsonl says; None: no part of the program writes it."""
    if key in METRICS:
        return METRICS[key]
    return next((metric for pattern, metric in _PATTERNS.items() if pattern.fullmatch(key)), None)


def written(when: str) -> list[str]:
    """Return the keys that are written together, those apart that stand for many."""
    return [key for key, metric in METRICS.items() if metric.when == when and "<" not in key]
