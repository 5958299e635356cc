"""What is allowed but may not be what is meant: said once before a run, and by `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.config.transforms import planned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.config.schema import RunConfig

WHOLE_COMPLETIONS = ("bnpo", "dr_grpo", "dapo", "cispo")
"""Losses that add up tokens: with one ratio per completion, long ones weigh more."""


def cautions(config: RunConfig) -> Iterator[str]:
    """Yield a sentence for each thing that deserves a second look, with what to do about it."""
    training, algorithm = config.training, config.algorithm
    if training.top_p < 1:
        yield (
            f"training.top_p = {training.top_p:g}: completions come from a truncated distribution, which no loss here "
            "corrects; the gradient is biased. Use 1.0"
        )
    for step in planned(config):
        if step.name == "hicra" and step.options.alpha >= 1:
            yield (
                f"hicra's alpha = {step.options.alpha:g}: planning tokens of bad completions lose their blame (at 1) "
                "or are rewarded (above). Stay below 1"
            )
        if step.name == "gtpo" and step.options.beta > 1:
            yield (
                f"gtpo's beta = {step.options.beta:g}: weights of the surest tokens are clamped at 0, and a "
                "completion's mean advantage changes. Up to 1 neither happens"
            )
    wanted, data = config.eval, config.data
    on_test = (wanted.source, wanted.name) == (data.source, data.name) and wanted.split in ("", "test")
    if wanted.final_test and wanted.keep_best and on_test:
        yield (
            f'eval.source = "{wanted.source}" evaluates on the test split while the run trains: adapter-best is chosen '
            "by it, and test/score tells nothing new. Leave source out, or final_test"
        )
    if algorithm.importance_sampling_level == "sequence" and algorithm.loss_type in WHOLE_COMPLETIONS:
        yield (
            f'importance_sampling_level = "sequence" with loss_type = "{algorithm.loss_type}": long completions weigh '
            'more. GSPO (arXiv 2507.18071) is loss_type = "grpo"'
        )
    if algorithm.loss_type == "luspo" and algorithm.importance_sampling_level == "token":
        yield 'loss_type = "luspo" is meant for importance_sampling_level = "sequence"'
