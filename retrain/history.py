"""How long a run takes, from earlier ones of its shape on this machine. Nothing is guessed from other machines."""

from __future__ import annotations

import contextlib
import socket
import statistics
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS
from retrain.errors import ConfigError
from retrain.references import OUTPUTS, runs_under
from retrain.runs import last_lines, sound_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from retrain.config.schema import RunConfig
    from retrain.store import RunRecord

SHAPE = (
    "model.model", "model.lora_rank", "model.dtype", "training.batch_size", "training.group_size",
    "training.max_tokens", "training.micro_batch_size", "algorithm.num_iterations", "backend.backend",
    "backend.devices", "inference.engine", "data.source", "data.name", "eval.every", "eval.examples", "eval.samples",
)  # fmt: skip
"""Keys that decide how long a step takes, and what an evaluation does."""

LOOKED_AT = 40  # newest finished runs


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What runs of one shape took: medians over them."""

    seconds_per_step: float
    seconds_around: float  # loading, evaluations, the last checkpoint
    runs: int

    def seconds(self, steps: int) -> float:
        """Return how long a run of so many steps takes."""
        return self.seconds_around + steps * self.seconds_per_step


def paces(configs: Sequence[RunConfig], root: Path = OUTPUTS) -> list[Pace | None]:
    """Return the pace of each config; None where no finished run on this machine has its shape."""
    told: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for shape, per_step, around in _finished(root):
        told.setdefault(shape, []).append((per_step, around))
    found = [told.get(_shape(_sections(config)), []) for config in configs]
    return [_median(times) if times else None for times in found]


def _finished(root: Path) -> list[tuple[tuple[Any, ...], float, float]]:
    """Return shape, seconds a step and seconds around them of the newest finished runs of this machine."""
    found = []
    for run in reversed(runs_under(root)):
        if len(found) == LOOKED_AT:
            break
        with contextlib.suppress(ConfigError, OSError, ValueError, TypeError):  # a damaged run tells nothing
            record = sound_record(run)
            pace = last_lines(run).seconds_per_step
            if pace is not None and _is_whole(record):
                shape = _shape(tomllib.loads((run / "config.toml").read_text(encoding="utf-8")))
                took = record.active_seconds or (record.ended or 0.0) - record.started
                found.append((shape, pace, max(0.0, took - pace * record.steps_done)))
    return found


def _is_whole(record: RunRecord) -> bool:
    return record.state == "done" and record.host == socket.gethostname() and record.ended is not None


def _sections(config: RunConfig) -> dict[str, dict[str, Any]]:
    return {dotted.partition(".")[0]: vars(getattr(config, dotted.partition(".")[0])) for dotted in SHAPE}


def _shape(sections: Mapping[str, Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return the values of a config that decide; unhashable ones as text."""
    parts = (dotted.partition(".")[::2] for dotted in SHAPE)
    return tuple(str(sections.get(s, {}).get(name, KEYS[f"{s}.{name}"].default)) for s, name in parts)


def _median(times: Sequence[tuple[float, float]]) -> Pace:
    return Pace(
        seconds_per_step=statistics.median(per_step for per_step, _ in times),
        seconds_around=statistics.median(around for _, around in times),
        runs=len(times),
    )
