"""The held-out score: what the policy does on tasks that it never trains on, with its standard error.

tasks [N] ──engine, stream 1──▶ completions [N·samples] ──reward──▶ a mean per task ──▶ score ± se, pass@k ± se

Every evaluation of a run uses the same random numbers: a function of (stream 1, seed, task, rollout, position), never
of the step. So two evaluations differ by what training changed, not by luck, and their difference is known better than
either score. Stream 0 is training's: evaluating, or not, changes nothing that is trained on.

The task is the unit of every mean and every standard error, for the completions of one task are not independent.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from dataclasses import asdict, dataclass, replace
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from retrain import evaluations, rewards
from retrain.config.logged import passes
from retrain.errors import ConfigError, Problem, RunError
from retrain.evaluations import Answer
from retrain.events import Evaluated, Phase
from retrain.types import HeldOut, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.config.schema import RunConfig
    from retrain.data import LoadedData
    from retrain.events import Emit
    from retrain.types import Engine, Job, Reward, Task, Tokenizer

log = logging.getLogger(__name__)

STREAM = 1  # of random numbers; training's is 0


# --- what is evaluated --------------------------------------------------------------------------------------------


def prepare(config: RunConfig, loaded: LoadedData, reward: Reward, places: Sequence[Path]) -> HeldOut | None:
    """Return what `[eval]` asks for; `reward` is the one that training sees. None: nothing is held out.

    Raises:
        ConfigError: `eval.reward` is not a reward.
    """
    if not loaded.held_out and not loaded.test:
        return None
    wanted, training = config.eval, config.training
    is_training_s = wanted.reward in ("", config.reward.type or loaded.reward)
    max_tokens = wanted.max_tokens or training.max_tokens
    rows = training.batch_size * training.group_size * training.max_tokens // max(training.max_tokens, max_tokens)
    return HeldOut(
        tasks=loaded.held_out,
        test=loaded.test,
        reward=reward if is_training_s else _stricter(config, places),
        training_reward=None if is_training_s else reward,
        sampling=Sampling(
            max_tokens=max_tokens,
            temperature=training.temperature if wanted.temperature == -1 else wanted.temperature,
            top_p=training.top_p,
            stop=tuple(training.stop),
            seed=training.seed,
        ),
        samples=wanted.samples,
        rows=rows,
    )


def _stricter(config: RunConfig, places: Sequence[Path]) -> Reward:
    named = replace(config, reward=replace(config.reward, type=config.eval.reward))
    try:
        return rewards.build(named, config.eval.reward, places)
    except ConfigError as error:
        raise ConfigError(
            replace(p, message=p.message.replace("reward.type", "eval.reward"), key="eval.reward")
            for p in error.problems
        ) from error


def check_lengths(held_out: HeldOut, tokenizer: Tokenizer, limit: int | None) -> None:
    """Refuse completions that would leave the positions that the model knows (`limit`; None: no such bound).

    Raises:
        ConfigError: the longest prompt and the longest completion together are longer.
    """
    longest = max(len(tokenizer.encode_prompt(task.prompt)) for task in chain(held_out.tasks, held_out.test))
    if limit is not None and longest + held_out.sampling.max_tokens > limit:
        raise ConfigError(
            Problem(
                message=f"completions of {held_out.sampling.max_tokens} tokens after held-out prompts of {longest}: "
                f"the model was made for {limit} in all",
                hint=f"eval.max_tokens = {max(1, limit - longest)}",
                key="eval.max_tokens",
            )
        )


# --- completions and their rewards --------------------------------------------------------------------------------


def examine(
    tasks: Sequence[Task], held_out: HeldOut, engine: Engine, tokenizer: Tokenizer, *, version: int, emit: Emit
) -> dict[str, float]:
    """Ask every task (`ask`), and measure the answers (`measure`)."""
    answers = ask(tasks, held_out, engine, tokenizer, version=version, emit=emit)
    return measured(answers, held_out)


def ask(
    tasks: Sequence[Task], held_out: HeldOut, engine: Engine, tokenizer: Tokenizer, *, version: int, emit: Emit
) -> list[list[Answer]]:
    """Let the policy, as it is now, answer every task: `held_out.samples` answers each.

    Nothing of a training that it interrupts is disturbed: the engine's numbers come from a stream of their own, and
    the global generators, which a reward may use, are put back. `version` is what the engine's weights are stamped
    with: steps done.

    Raises:
        RunError: the engine sampled from another policy, or the reward cannot go on.
    """
    prompts = [tokenizer.encode_prompt(task.prompt) for task in tasks]
    answers: list[list[Answer]] = []
    a_call = max(1, held_out.rows // held_out.samples)
    with _generators_put_back():
        engine.update_weights(version)
        for first in range(0, len(tasks), a_call):
            emit(Phase(name="evaluate", detail=f"{first} of {len(tasks)}"))
            sampled = engine.generate(
                prompts[first : first + a_call],
                group_size=held_out.samples,
                sampling=held_out.sampling,
                step=0,
                stream=STREAM,
                first_task=first,
            )
            stale = {completion.policy_version for completion in chain.from_iterable(sampled)} - {version}
            if stale:
                raise RunError(f"evaluation at step {version}: completions came from policy version {sorted(stale)}")
            answers += _scored(tasks[first : first + a_call], sampled, held_out, tokenizer)
    return answers


def measured(answers: Sequence[Sequence[Answer]], held_out: HeldOut) -> dict[str, float]:
    """Measure the answers to what is held out (`measure`)."""
    return measure(answers, held_out.samples, two_rewards=held_out.training_reward is not None)


def _scored(tasks: Sequence[Task], sampled: Any, held_out: HeldOut, tokenizer: Tokenizer) -> list[list[Answer]]:
    texts = [tokenizer.decode(completion.token_ids) for group in sampled for completion in group]
    asked = [task for task in tasks for _ in range(held_out.samples)]
    scores = [score.value for score in held_out.reward.score(texts, asked)]
    seen = held_out.training_reward
    training = scores if seen is None else [score.value for score in seen.score(texts, asked)]
    answers = [
        Answer(
            reward=reward,
            training_reward=trained,
            length=len(completion.token_ids),
            truncated=completion.finish_reason == "length",
            text=text,
        )
        for completion, text, reward, trained in zip(chain.from_iterable(sampled), texts, scores, training, strict=True)
    ]
    return [answers[start : start + held_out.samples] for start in range(0, len(answers), held_out.samples)]


@contextlib.contextmanager
def _generators_put_back() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch, which a reward may use, back the state that they had."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


# --- numbers ------------------------------------------------------------------------------------------------------


def measure(answers: Sequence[Sequence[Answer]], samples: int, *, two_rewards: bool = False) -> dict[str, float]:
    """Measure the answers to each task. What cannot be, such as the mean of no reward, is left out.

    score          mean over tasks of the mean reward of a task's completions
    pass_at_k      mean over tasks of `evaluations.pass_at_k`, k = 1, 2, 4, … and `samples`; correct: above `CORRECT`
    …_se           their standard errors (`standard_error`)
    reward         as score, by the training reward; with `two_rewards`: where the score has another
    length_mean, truncated_rate, unscorable        over all completions; the latter two are shares
    """
    every = list(chain.from_iterable(answers))
    found = {
        "length_mean": fmean(answer.length for answer in every),
        "truncated_rate": fmean(answer.truncated for answer in every),
        "unscorable": fmean(answer.reward is None for answer in every),
    }
    names = ["score", *(f"pass_at_{k}" for k in passes(samples)), *(["reward"] if two_rewards else [])]
    for name in names:
        found |= _mean(name, [value for value in evaluations.of_tasks(name, answers) if value is not None])
    return found


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    found = {name: fmean(values)} if values else {}
    return found | ({f"{name}_se": standard_error(values)} if len(values) > 1 else {})


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean of N values, one a task: sqrt(Σ (v − mean)² / (N (N − 1))).

    It says how far the mean would move with other tasks of the same kind and other completions: the variance of a
    task's own mean is part of the spread between tasks, so that clusters of completions are accounted for
    (arXiv 2411.00640, section 2.2). N is at least 2.
    """
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) * (len(values) - 1)))


# --- over a run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best evaluation so far."""

    step: int
    score: float
    score_se: float | None  # None: one task has no spread


class Evaluator:
    """Evaluates a run at its start, every `eval.every` steps and at its end.

    improved: whether the last evaluation is the best so far; of equal ones the earlier is
    best:     that best; None before the first score
    answers:  those of the evaluations of a step, by family of metrics: eval, test; for the run directory
    """

    def __init__(self, job: Job, engine: Engine) -> None:
        self.job, self.engine = job, engine
        self.improved = False
        self.best: Best | None = None
        self.answers: dict[str, list[list[Answer]]] = {}
        self._trained: list[float] = []  # mean rewards of the training batches since the last evaluation

    def due(self, step: int) -> bool:
        """Tell whether the policy after `step` steps is to be evaluated; False where nothing is held out."""
        held_out, every = self.job.held_out, self.job.config.eval.every
        if held_out is None or not held_out.tasks or not every:
            return False
        return step % every == 0 or step == self.job.config.training.max_steps

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take note of a training step, for the gap."""
        if "reward/mean" in metrics:
            self._trained.append(metrics["reward/mean"])

    def __call__(self, step: int) -> dict[str, float]:
        """Evaluate the policy after `step` steps: `eval/…` as in `measure`, `eval/gap`, and the seconds it took.

        The gap is the mean training reward since the last evaluation minus the held-out score. With one reward for
        both it grows when the policy learns its tasks by heart. With a stricter `eval.reward` it also grows when the
        policy learns what only the training reward likes; `eval/reward`, the held-out mean of the training reward,
        tells the two apart. Only its growth says something: other sampling settings, another reward, and a training
        mean over steps that lie behind shift it from the start.
        """
        assert self.job.held_out is not None, "nothing is held out: `due` says so"
        found = self._examined("eval", self.job.held_out.tasks, step)
        score = found.get("eval/score")
        if score is not None and self._trained:
            found["eval/gap"] = fmean(self._trained) - score
        self._trained = []
        self.improved = score is not None and (self.best is None or score > self.best.score)
        if score is not None and self.improved:
            self.best = Best(step=step, score=score, score_se=found.get("eval/score_se"))
        self.job.emit(Evaluated(step=step, metrics=found))
        return found

    def test(self, step: int) -> dict[str, float]:
        """Score the test split: `test/…` as in `measure`; nothing where none was asked for."""
        if self.job.held_out is None or not self.job.held_out.test:
            return {}
        return self._examined("test", self.job.held_out.test, step)

    def _examined(self, family: str, tasks: Sequence[Task], step: int) -> dict[str, float]:
        job, began = self.job, time.perf_counter()
        assert job.held_out is not None
        self.answers[family] = ask(tasks, job.held_out, self.engine, job.tokenizer, version=step, emit=job.emit)
        found = measured(self.answers[family], job.held_out)
        if "score" not in found:
            log.warning("step %d: not one of the held-out completions could be scored", step)
        seconds = "evaluate" if family == "eval" else family
        return {f"{family}/{name}": value for name, value in found.items()} | {
            f"time/{seconds}": time.perf_counter() - began
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain values."""
        return {"best": asdict(self.best) if self.best else None, "trained": list(self._trained)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = Best(**state["best"]) if state["best"] else None
        self._trained = list(state["trained"])
