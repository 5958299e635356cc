"""What a job is made of beside its backend: data, tokenizer, reward, credit. A backend says which of them it is given.

    data       the tasks                                     reward   scores completions
    tokenizer  messages to token ids and back                credit   baseline and transforms

With data and a reward there is a held-out part too. What no backend asked for is not made, and nothing of it imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from retrain.capabilities import Capabilities, Needs
    from retrain.config import Composed
    from retrain.config.schema import RunConfig
    from retrain.types import HeldOut

T = TypeVar("T")


class Attempts:
    """Calls that may each find the user's input wrong: go on after the first, and keep all that was found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __call__(self, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ConfigError as error:
            self.problems += error.problems
            return None


class NotMade:
    """Stands for a part that the backend did not ask for, and says so where it is used after all."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __getattr__(self, name: str) -> Any:
        part = vars(self).get("part", "part")
        raise AttributeError(f"no {part} was made (.{name}): the backend's capabilities do not ask for it")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"no {self.part} was made: the backend's capabilities do not ask for it")

    def close(self) -> None:
        """End nothing: rewards are closed when a run is over."""


@dataclass(kw_only=True)
class Parts:
    """The parts of a job; `data` and `held_out` are empty where they were not asked for."""

    tasks: Any = ()
    dataset: dict[str, Any] = field(default_factory=dict)  # what run.json says of the data
    tokenizer: Any = field(default_factory=lambda: NotMade("tokenizer"))
    reward: Any = field(default_factory=lambda: NotMade("reward"))
    baseline: Any = field(default_factory=lambda: NotMade("baseline"))
    pipeline: Any = field(default_factory=lambda: NotMade("pipeline"))
    held_out: HeldOut | None = None

    def close(self) -> None:
        """End the worker processes of rewards."""
        self.reward.close()
        if self.held_out is not None:
            self.held_out.reward.close()


def make(composed: Composed, wanted: Set[str], attempt: Attempts) -> Parts:
    """Make the parts of `wanted`; what is wrong with them is left with `attempt`, and that part is None."""
    config, places, made = composed.config, composed.places, Parts()
    loaded = None
    if "data" in wanted:
        from retrain import data

        if loaded := attempt(lambda: data.load(config, places)):
            name = "/".join(part for part in (config.data.source, config.data.name or config.data.path) if part)
            made.tasks = loaded.tasks
            made.dataset = {"name": name, "rows": len(loaded.tasks), "digest": loaded.digest}
    if "tokenizer" in wanted:
        from retrain.model import load_tokenizer

        _quiet_transformers()
        made.tokenizer = attempt(lambda: load_tokenizer(config))
    if "credit" in wanted:
        from retrain.advantages import baselines, pipeline

        if made.tokenizer:
            made.pipeline = attempt(lambda: pipeline.build(config, made.tokenizer, places))
        made.baseline = attempt(lambda: baselines.build(config.algorithm, places))
    if "reward" in wanted:
        from retrain import rewards

        reward = attempt(lambda: rewards.build(config, loaded.reward if loaded else "match", places))
        made.reward = reward or made.reward
        if loaded and reward:
            from retrain import evaluate

            made.held_out = attempt(lambda: evaluate.prepare(config, loaded, reward, places))
    return made


def _quiet_transformers() -> None:
    """Let transformers log as other libraries do, and draw no bars of its own."""
    from transformers.utils import logging as noisy

    noisy.disable_default_handler()
    noisy.enable_propagation()
    noisy.disable_progress_bar()


def not_installed(config: RunConfig, offered: Capabilities) -> list[Problem]:
    """Name what a backend, and the engine that samples for it, need and is not installed here. Nothing is imported."""
    from retrain import registry

    engine = registry.declared("engine", config.inference.engine) if offered.on_this_machine else None
    asked: list[tuple[str, Needs]] = [(f'backend "{config.backend.backend}"', offered)]
    asked += [(f'engine "{config.inference.engine}"', engine)] if engine is not None else []
    problems, named = list[Problem](), set[str]()
    for who, needs in asked:
        absent = [module for module in needs.absent if module not in named]
        if absent:
            hint = f'pip install "retrain[{needs.extra}]"' if needs.extra else f"pip install {' '.join(absent)}"
            problems.append(Problem(message=f"{who} needs {', '.join(absent)}, not installed here", hint=hint))
            named.update(absent)
    return problems


def wrong_options(config: RunConfig, offered: Capabilities) -> list[Problem]:
    """Hold `[backend.options]` of a backend of one's own to what it takes; the built-in ones have been checked."""
    from retrain import registry

    name, given = config.backend.backend, config.backend.options
    if name in registry.BUILTIN["backend"]:
        return []
    if offered.options is None:
        unknown = f"{', '.join(given)} is set" if given else ""
        return (
            [Problem(message=f'backend "{name}" takes no options, {unknown}', key="backend.options")] if given else []
        )
    attempt = Attempts()
    attempt(lambda: registry.made_with(offered.options, given, f'backend "{name}"'))  # type: ignore[arg-type]  # it is one
    return attempt.problems
