"""Every noun and every protocol of retrain. Read this first.

Shapes: P prompts a step, G completions of each (a *group*), B = P·G rows, S prompt tokens, T completion tokens.
Log-probabilities, surprisals and entropies are in nats.

    Task ── sampled G times ──▶ Group of Rollouts ── collate ──▶ Batch ── baseline, transforms ──▶ Credit

This module imports no tensor library at run time, so that everything above it may import it for free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from retrain.signals import Signals

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from retrain.capabilities import Capabilities, Prices
    from retrain.config.schema import RunConfig
    from retrain.errors import RunError
    from retrain.evaluations import Answer
    from retrain.events import Diagnosed, Emit
    from retrain.store import RunRecord

CORRECT = 0.5
"""A reward above this counts as a correct answer."""

Message = Mapping[str, str]
"""One chat message: ``{"role": "user", "content": "17+25="}``."""


# --- what is asked and what came back -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """One problem to solve.

    >>> Task(id="arithmetic-0", prompt=({"role": "user", "content": "17+25="},), answer="42")
    """

    id: str
    prompt: Sequence[Message]
    answer: str = ""
    info: Mapping[str, Any] = field(
        default_factory=dict[str, Any]
    )  # the example's other columns, for rewards that want them


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn. Temperature divides the logits here and in the loss alike.

    Temperature 0 takes the likeliest token: for evaluation only, for nothing can be learnt from it.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What an engine sampled: T tokens, each with what the sampler knew when it chose it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]  # of the sampled token, at the sampling temperature, over the full vocabulary
    entropies: Sequence[float] | None  # of that same distribution; None where the engine cannot tell
    finish_reason: str  # "stop": ended by itself; "length": cut at max_tokens
    policy_version: int  # optimiser steps that the sampling weights had seen


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One attempt at a task. `reward` None means unscorable: left out of the baseline, advantage 0."""

    prompt_ids: Sequence[int]
    completion: Completion
    text: str
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])  # named parts of the reward
    error: str = ""  # why it could not be scored


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G rollouts of one task."""

    task: Task
    rollouts: Sequence[Rollout]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a reward says of one completion. `value` None means unscorable."""

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str = ""


# --- tensors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows, padded: prompts on the left, completions on the right. Rows of one group are neighbours.

    `loss_mask` is True on tokens that the policy sampled and that are trained: never on padding, never on text of
    an environment. Every mean over tokens uses it.
    """

    prompt_ids: Int[Tensor, "B S"]
    prompt_mask: Bool[Tensor, "B S"]
    completion_ids: Int[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]
    sampling_logprobs: Float[Tensor, "B T"]
    entropies: Float[Tensor, "B T"] | None
    rewards: Float[Tensor, " B"]  # NaN where unscorable
    group_ids: Int[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class Credit:
    """One advantage per token, and the uncertainty that transforms read and rewrite. Float64."""

    advantages: Float[Tensor, "B T"]
    uncertainty: Float[Tensor, "B T"]

    def replace(self, **changes: Tensor) -> Credit:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class AdvantageContext:
    """What a transform may look at beside the credit itself."""

    batch: Batch
    planning_mask: Bool[Tensor, "B T"] | None  # True on tokens of planning phrases; None where nothing asked for it
    step: int
    max_steps: int
    log: Callable[[str, float], None]  # log("gtpo/clamped_share", 0.02): one value per step and key

    @property
    def loss_mask(self) -> Bool[Tensor, "B T"]:
        return self.batch.loss_mask


@dataclass(frozen=True, kw_only=True)
class CreditedBatch:
    """What every backend trains on: rows with their credit, and what the step measured on the way."""

    batch: Batch
    credit: Credit
    metrics: Mapping[str, float]


# --- protocols: one per family of choices -------------------------------------------------------------------------


class Baseline(Protocol):
    """Rewards to one advantage per row. Unscorable rows (NaN) get 0 and count for nobody."""

    def __call__(self, rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]) -> Float[Tensor, " B"]: ...


class Transform(Protocol):
    """Credit to credit; pure but for an optional `state_dict`.

    requires: signals it reads ("entropies", "planning_mask"); scope: "row", "group" or "batch";
    keeps_zero_rows: a row of zero advantages stays one, whatever the other rows are.
    """

    requires: frozenset[str]
    scope: str
    keeps_zero_rows: bool

    def __call__(self, credit: Credit, ctx: AdvantageContext) -> Credit: ...


class Signal(Protocol):
    """Token uncertainty H_t of a batch: what transforms read."""

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]: ...


class Detector(Protocol):
    """Finds planning phrases: for each text the character ranges [start, end) of what it found."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]: ...


class Reward(Protocol):
    """Scores completions against their tasks, in order."""

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]: ...

    def close(self) -> None:
        """End worker processes; safe to call twice."""
        ...


class Tokenizer(Protocol):
    """Messages to token ids and back; nothing that was sampled is ever encoded again."""

    eos_ids: frozenset[int]
    pad_id: int

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


class Engine(Protocol):
    """Samples completions from the policy, and says which version of it did."""

    gives_entropies: bool
    beat: Callable[[], None]  # called with every token: a sign of life

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        group_size: int,
        sampling: Sampling,
        step: int,
        stream: int = 0,
        first_task: int = 0,
    ) -> list[list[Completion]]:
        """Return `group_size` completions for each prompt.

        Random numbers are a function of (stream, sampling.seed, step, first_task + prompt index, rollout, position)
        alone, so that a completion never depends on what it was batched with.
        """
        ...

    def update_weights(self, version: int) -> None:
        """Sample from the policy as it is now from here on, and stamp completions with `version`."""
        ...

    def stop(self) -> None: ...


class Store(Protocol):
    """The run directory, as the training process writes it (`retrain.store`)."""

    dir: Path

    @property
    def record(self) -> RunRecord: ...

    def update(self, **changes: Any) -> None:
        """Change fields of `run.json`."""
        ...

    def sync(self) -> None:
        """Make sure that the metrics so far survive a power cut."""
        ...

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def write_rollouts(
        self, step: int, groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None
    ) -> None: ...

    def write_evaluation(
        self, part: str, step: int, tasks: Sequence[Task], answers: Sequence[Sequence[Answer]]
    ) -> None: ...


class Source(Protocol):
    """Makes the batch of a step (`retrain.batches.Batches`)."""

    def next_batch(self, step: int) -> CreditedBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Books(Protocol):
    """Keeps the record of a run, step by step (`retrain.bookkeeping.Bookkeeper`)."""

    stop: RunError | None  # why the run must end after this step

    def before_first_step(self) -> None: ...

    def finish_step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def diagnose(self, found: Diagnosed) -> None: ...

    def wants_save(self) -> bool: ...

    def saved(self, folder: Path) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Backend(Protocol):
    """Computes gradients and owns the loop.

    A class of your own is chosen as ``backend = "pkg.mod:attr"``, or by an entry point of ``retrain.backends``.
    """

    capabilities: ClassVar[Capabilities]  # of the class: read before anything is loaded
    num_trainable: int  # weights that receive a gradient
    max_positions: int | None  # tokens of prompt and completion together that the model was made for

    @classmethod
    def load(cls, config: RunConfig, tokenizer: Any) -> Backend:
        """Make the backend that a config describes.

        Raises:
            ConfigError: it cannot be had here.
        """
        ...

    def train(self, job: Job, store: Store, *, resume_from: Path | None) -> RunResult:
        """Run the loop to the end, from the start or from a checkpoint, and write the final adapter."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a run is measured by and never trained on (`retrain.evaluate`)."""

    tasks: Sequence[Task]  # the validation part; empty: no held-out score
    test: Sequence[Task]  # the source's own test split, for the end; empty: not asked for
    reward: Reward  # what `eval/score` is the mean of
    training_reward: Reward | None  # the one that training sees, where `reward` is another
    sampling: Sampling
    samples: int  # completions of each task
    rows: int  # completions in one call of the engine, about


def no_beat() -> None:
    """Stand where nobody watches for signs of life."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, built: the names of its config turned into objects."""

    config: RunConfig
    data: Sequence[Task]  # in a fixed order; retrain/data/order.py says which come when
    tokenizer: Tokenizer
    reward: Reward
    baseline: Baseline
    pipeline: Pipeline
    backend: Backend
    sampling: Sampling
    emit: Emit
    prices: Prices | None = None  # of the backend, for `MONEY`
    held_out: HeldOut | None = None
    signals: Signals = field(default_factory=Signals)  # requests to stop or to save
    beat: Callable[[], None] = no_beat  # called from loops that may last: a sign of life


class Pipeline(Protocol):
    """The transforms of a run, in order (`retrain.advantages.pipeline`)."""

    def planning_mask(self, batch: Batch, *, step: int) -> Bool[Tensor, "B T"] | None: ...

    def __call__(
        self,
        advantages: Float[Tensor, " B"],
        batch: Batch,
        *,
        planning_mask: Bool[Tensor, "B T"] | None,
        step: int,
        log: Callable[[str, float], None],
    ) -> Credit: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    dir: Path
    steps: int  # optimiser steps of the run, those before a resume included
    artifact: Path  # the final adapter, or the model where everything was trained
