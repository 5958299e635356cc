"""What a run tells whoever is watching: plain values, rendered by `cli/progress.py` and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The run begins something that takes a while: "load", "evaluate", "generate", "score", "train", "save"."""

    name: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Everything is loaded and the run directory exists."""

    dir: Path
    first_step: int  # 0, or where a resumed run goes on
    max_steps: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimiser step: the same values as the line in `metrics.jsonl`."""

    step: int  # steps done so far, 1-based
    max_steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The held-out score of a step, before its line in `metrics.jsonl` is written."""

    step: int  # steps done; 0: before the first
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    path: Path


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something the user should know, with what to do about it."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """A named rule of `retrain.health` was broken, or something was mended: also in `run.json`, under `problems`."""

    rule: str  # "truncation", "entropy_collapse", "out_of_memory", …
    step: int  # steps done when it was seen
    message: str  # what is wrong, with the numbers that say so
    hint: str  # what to do about it
    evidence: Mapping[str, float]


Event = Phase | RunStarted | StepDone | Evaluated | CheckpointSaved | Warned | Diagnosed
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watch nothing."""
