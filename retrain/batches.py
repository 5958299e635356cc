"""One generated batch, credited: collect → score → collate → baseline → transforms. The same for every backend.

tasks [P] ──engine──▶ groups [P·G] ──reward──▶ scored ──collate──▶ Batch [B,T] ──baseline, pipeline──▶ Credit [B,T]
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retrain.advantages.baselines import EQUAL, group_range
from retrain.data.order import task_indices
from retrain.errors import RunError
from retrain.events import Phase
from retrain.types import (
    CORRECT,
    Batch,
    Credit,
    CreditedBatch,
    Engine,
    Group,
    Job,
    Rollout,
    Sampling,
    Store,
    Task,
    Tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

HOPELESS_STEPS = 3  # steps in a row in which no completion could be scored, then the run stops


def collect(
    engine: Engine, tokenizer: Tokenizer, tasks: Sequence[Task], *, group_size: int, sampling: Sampling, step: int
) -> list[Group]:
    """Sample `group_size` completions of every task.

    Raises:
        RunError: a completion was sampled by weights of another step.
    """
    prompts = [tokenizer.encode_prompt(task.prompt) for task in tasks]
    sampled = engine.generate(prompts, group_size=group_size, sampling=sampling, step=step)
    stale = {completion.policy_version for group in sampled for completion in group} - {step}
    if stale:
        raise RunError(f"step {step}: completions came from policy version {sorted(stale)}, not from {step}")
    return [
        Group(
            task=task,
            rollouts=[
                Rollout(prompt_ids=prompt, completion=c, text=tokenizer.decode(c.token_ids)) for c in completions
            ],
        )
        for task, prompt, completions in zip(tasks, prompts, sampled, strict=True)
    ]


def score(groups: Sequence[Group], job: Job) -> list[Group]:
    """Give every rollout its reward. One that cannot be scored keeps None and says why."""
    rollouts = [(group.task, rollout) for group in groups for rollout in group.rollouts]
    scores = iter(job.reward.score([rollout.text for _, rollout in rollouts], [task for task, _ in rollouts]))
    return [replace(group, rollouts=[_scored(rollout, next(scores)) for rollout in group.rollouts]) for group in groups]


def _scored(rollout: Rollout, given: Any) -> Rollout:
    return replace(rollout, reward=given.value, parts=given.parts, error=given.error)


def collate(groups: Sequence[Group], *, pad_id: int, mask_truncated: bool) -> Batch:
    """Pad the rollouts into rows: prompts on the left, completions on the right.

    What is padding is said by masks alone: a tokenizer's pad id may be one that the policy samples.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = torch.tensor([len(r.completion.token_ids) for r in rollouts])
    prompt_lengths = torch.tensor([len(r.prompt_ids) for r in rollouts])
    longest_prompt = int(prompt_lengths.max())
    loss_mask = torch.arange(int(lengths.max())) < lengths[:, None]
    if mask_truncated:
        loss_mask &= torch.tensor([r.completion.finish_reason != "length" for r in rollouts])[:, None]
    entropies = [r.completion.entropies for r in rollouts]
    given = [e for e in entropies if e is not None]
    return Batch(
        prompt_ids=_right_padded([r.prompt_ids[::-1] for r in rollouts], pad_id).flip(1),
        prompt_mask=torch.arange(longest_prompt).flip(0) < prompt_lengths[:, None],
        completion_ids=_right_padded([r.completion.token_ids for r in rollouts], pad_id),
        loss_mask=loss_mask,
        sampling_logprobs=_right_padded([r.completion.logprobs for r in rollouts], 0.0),
        entropies=_right_padded(given, 0.0) if len(given) == len(rollouts) else None,
        rewards=torch.tensor([float("nan") if r.reward is None else r.reward for r in rollouts], dtype=torch.float64),
        group_ids=torch.arange(len(groups)).repeat_interleave(torch.tensor([len(g.rollouts) for g in groups])),
    )


def _right_padded(rows: Sequence[Sequence[float]], filler: float) -> Tensor:
    return torch.tensor(list(zip(*zip_longest(*rows, fillvalue=filler), strict=True)))


class Batches:
    """Makes the batch of any step. Its only state is how long nothing could be scored, and the pipeline's."""

    def __init__(self, job: Job, engine: Engine, store: Store) -> None:
        self.job, self.engine, self.store = job, engine, store
        self.hopeless_steps = 0

    def next_batch(self, step: int) -> CreditedBatch:
        """Generate, score and credit the batch that optimiser step `step` (from 0) trains on.

        Raises:
            RunError: no completion of three steps in a row could be scored, or a plugin returned something unusable.
        """
        job, training = self.job, self.job.config.training
        number = step // job.config.algorithm.num_iterations
        indices = task_indices(len(job.data), training.batch_size, number, training.seed, training.shuffle)
        metrics: dict[str, float] = {}

        started = time.perf_counter()
        job.emit(Phase(name="generate"))
        self.engine.update_weights(step)
        groups = collect(
            self.engine,
            job.tokenizer,
            [job.data[i] for i in indices],
            group_size=training.group_size,
            sampling=job.sampling,
            step=step,
        )
        generated = time.perf_counter()
        job.emit(Phase(name="score"))
        groups = score(groups, job)
        scored = time.perf_counter()
        self._stop_when_hopeless(groups)

        batch = collate(groups, pad_id=job.tokenizer.pad_id, mask_truncated=job.config.algorithm.mask_truncated)
        advantages = self._baseline(batch, step)
        planning = job.pipeline.planning_mask(batch, step=step)
        credit = job.pipeline(advantages, batch, planning_mask=planning, step=step, log=metrics.__setitem__)
        metrics |= measure(groups, batch, credit) | measure_planning(batch, planning)
        metrics |= {"time/generate": generated - started, "time/score": scored - generated}
        self.store.write_rollouts(step + 1, groups, credit, planning)
        return CreditedBatch(batch=batch, credit=credit, metrics=metrics)

    def _baseline(self, batch: Batch, step: int) -> Tensor:
        name = self.job.config.algorithm.advantage_mode
        try:
            advantages = self.job.baseline(batch.rewards, batch.group_ids)
        except Exception as error:  # a plugin may fail in any way; ours raise nothing
            log.exception("advantage_mode %s failed at step %d", name, step)
            message = f'advantage_mode "{name}" failed at step {step}: {type(error).__name__}: {error}'
            raise RunError(message) from error
        if not isinstance(advantages, Tensor) or advantages.shape != batch.rewards.shape:
            raise RunError(f'advantage_mode "{name}" did not return one advantage per completion at step {step}')
        if not bool(advantages.isfinite().all()):
            raise RunError(f'advantage_mode "{name}" returned advantages that are not finite at step {step}')
        return torch.where(batch.rewards.isnan(), 0.0, advantages.double())

    def _stop_when_hopeless(self, groups: Sequence[Group]) -> None:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        failed = [rollout.error for rollout in rollouts if rollout.error]
        self.hopeless_steps = self.hopeless_steps + 1 if len(failed) == len(rollouts) else 0
        if self.hopeless_steps == HOPELESS_STEPS:
            raise RunError(f"the reward failed on every completion of {HOPELESS_STEPS} steps in a row: {failed[0]}")

    def state_dict(self) -> dict[str, Any]:
        return {"hopeless_steps": self.hopeless_steps, "pipeline": self.job.pipeline.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.hopeless_steps = state["hopeless_steps"]
        self.job.pipeline.load_state_dict(state["pipeline"])


def measure(groups: Sequence[Group], batch: Batch, credit: Credit) -> dict[str, float]:
    """Measure a generated batch. What cannot be, such as the mean of no reward, is left out."""
    rollouts = list(chain.from_iterable(group.rollouts for group in groups))
    scored = batch.rewards[~batch.rewards.isnan()]
    low, high = group_range(batch.rewards, batch.group_ids)
    informative = high - low > EQUAL
    correct = (high > CORRECT) & ~informative
    wrong = high.isfinite() & ~correct & ~informative
    lengths = torch.tensor([len(r.completion.token_ids) for r in rollouts], dtype=torch.float64)
    metrics = {
        "reward/errors": sum(bool(r.error) for r in rollouts) / len(rollouts),
        "reward/unscorable": 1 - len(scored) / len(rollouts),
        "groups/all_correct": float(correct.double().mean()),
        "groups/all_wrong": float(wrong.double().mean()),
        "groups/informative": float(informative.double().mean()),
        "completion/length_mean": float(lengths.mean()),
        "completion/length_max": float(lengths.max()),
        "completion/truncated_rate": sum(r.completion.finish_reason == "length" for r in rollouts) / len(rollouts),
        "completion/duplicate_rate": sum(map(num_duplicates, groups)) / len(rollouts),
        "advantage/max_abs": float(credit.advantages.abs().max()),
        "tokens/generated": float(lengths.sum()),
    }
    if len(scored):
        metrics |= {
            "reward/mean": float(scored.mean()),
            "reward/std": float(scored.std(correction=0)),
            "reward/correct_rate": float((scored > CORRECT).double().mean()),
        }
        metrics |= length_correlation(scored, lengths[~batch.rewards.isnan()])
    if batch.entropies is not None and bool(batch.loss_mask.any()):
        metrics["entropy/mean"] = float(batch.entropies.double()[batch.loss_mask].mean())
    for part in sorted({name for r in rollouts for name in r.parts}):
        values = [r.parts[part] for r in rollouts if part in r.parts]
        metrics[f"reward/{part}"] = sum(values) / len(values)
    return metrics


def num_duplicates(group: Group) -> int:
    """Count the completions whose tokens are those of another one of the group."""
    times = Counter(tuple(rollout.completion.token_ids) for rollout in group.rollouts)
    return sum(count for count in times.values() if count > 1)


def length_correlation(rewards: Tensor, lengths: Tensor) -> dict[str, float]:
    """Pearson's correlation of reward and length over the scored completions; nothing where either is constant."""
    if float(rewards.max() - rewards.min()) <= EQUAL or float(lengths.max() - lengths.min()) == 0:
        return {}
    r, n = rewards - rewards.mean(), lengths - lengths.mean()
    correlation = float((r * n).sum() / (r.norm() * n.norm()))
    return {"reward/length_correlation": min(1.0, max(-1.0, correlation))}  # rounding goes beyond 1


def measure_planning(batch: Batch, planning: Tensor | None) -> dict[str, float]:
    """Measure how much of a batch is planning, and the mean and variance of the entropy on either side."""
    if planning is None:
        return {}
    metrics = {"planning/share": float(planning.sum() / batch.loss_mask.sum().clamp(min=1))}
    for name, mask in {"planning": planning, "execution": batch.loss_mask & ~planning}.items():
        if batch.entropies is not None and bool(mask.any()):
            entropies = batch.entropies.double()[mask]
            metrics[f"entropy/{name}"] = float(entropies.mean())
            metrics[f"entropy/{name}_variance"] = float(entropies.var(correction=0))
    return metrics
