"""Evaluations on disk: `RUN/evaluations/step-N.parquet`, a row for each completion, and the numbers of one task.

`step-N` holds the held-out part after N steps, `test-N` the test split. A comparison of runs reads from them how a
difference spreads over problems (`retrain.crossed`); a person reads from them which problems a policy gets wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError
from retrain.types import CORRECT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from retrain.types import Task

    Problem = tuple[str, str]  # a task's id, and the digest of what is asked and what is right

PARTS = {"eval": "step", "test": "test"}
"""What files of a family of metrics are called."""

_PASS = re.compile(r"pass_at_(\d+)")
_NUMBERS = ("task_id", "problem", "reward", "training_reward", "length", "truncated")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What counts of one completion. A reward of None: it could not be scored, and is left out of every mean."""

    reward: float | None
    training_reward: float | None
    length: int  # tokens
    truncated: bool
    text: str = ""


# --- the numbers of a task ----------------------------------------------------------------------------------------


def of_tasks(metric: str, answers: Sequence[Sequence[Answer]]) -> list[float | None]:
    """Return what a metric is the mean of: a value for each task. None: the task is left out of the mean.

    metric: "score" and "reward", the mean reward and training reward of a task's completions, or "pass_at_k"
    """
    if metric == "reward":
        return [_mean([a.training_reward for a in group]) for group in answers]
    if metric == "score":
        return [_mean([a.reward for a in group]) for group in answers]
    found = _PASS.fullmatch(metric)
    assert found is not None, "`is_of_tasks` says so"
    return [_passed(group, int(found[1])) for group in answers]


def is_of_tasks(metric: str) -> bool:
    """Tell whether a metric of an evaluation is a mean over tasks."""
    return metric in ("score", "reward") or _PASS.fullmatch(metric) is not None


def _mean(rewards: Sequence[float | None]) -> float | None:
    known = [reward for reward in rewards if reward is not None]
    return fmean(known) if known else None


def _passed(group: Sequence[Answer], k: int) -> float | None:
    rewards = [a.reward for a in group if a.reward is not None]
    return pass_at_k(len(rewards), sum(reward > CORRECT for reward in rewards), k) if len(rewards) >= k else None


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that k of n completions, c of them correct, hold a correct one: 1 − C(n−c, k) / C(n, k).

    Unbiased for the chance that k fresh completions do, unlike 1 − (1 − c/n)^k (arXiv 2107.03374, eq. 1). k ≤ n.
    """
    return 1 - math.comb(n - c, k) / math.comb(n, k)


# --- on disk --------------------------------------------------------------------------------------------------------


def write(
    directory: Path, part: str, step: int, tasks: Sequence[Task], answers: Sequence[Sequence[Answer]], *, texts: bool
) -> None:
    """Write an evaluation, whole or not at all.

    part:  a key of `PARTS`
    texts: whether completions are kept, or their numbers only
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [
        (task, number, answer)
        for task, group in zip(tasks, answers, strict=True)
        for number, answer in enumerate(group)
    ]
    digests = {task.id: digest(task) for task in tasks}
    columns = {
        "task_id": pa.array([task.id for task, _, _ in flat], pa.string()),
        "problem": pa.array([digests[task.id] for task, _, _ in flat], pa.string()),
        "sample": pa.array([number for _, number, _ in flat], pa.int32()),
        "reward": pa.array([answer.reward for _, _, answer in flat], pa.float64()),
        "training_reward": pa.array([answer.training_reward for _, _, answer in flat], pa.float64()),
        "length": pa.array([answer.length for _, _, answer in flat], pa.int32()),
        "truncated": pa.array([answer.truncated for _, _, answer in flat], pa.bool_()),
        "completion": pa.array([answer.text if texts else None for _, _, answer in flat], pa.string()),
    }
    final = _path(directory, part, step)
    final.parent.mkdir(exist_ok=True)
    aside = final.with_name(f".{final.name}")
    pq.write_table(pa.table(columns), aside, compression="zstd")
    aside.replace(final)


def digest(task: Task) -> str:
    """Return what two tasks share that ask the same, in the same words, and take the same for right."""
    asked = json.dumps([[message["role"], message["content"]] for message in task.prompt])
    return hashlib.sha256(f"{asked}\0{task.answer}".encode(errors="surrogatepass")).hexdigest()[:16]


def read(directory: Path, part: str, step: int) -> dict[Problem, list[Answer]] | None:
    """Return the numbers of an evaluation, by problem; None: it is not on disk.

    Raises:
        ConfigError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _path(directory, part, step)
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            columns: Mapping[str, list[Any]] = file.read(columns=list(_NUMBERS)).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    found: dict[Problem, list[Answer]] = {}
    for task_id, problem, reward, training, length, truncated in zip(*columns.values(), strict=True):
        answer = Answer(reward=reward, training_reward=training, length=length, truncated=truncated)
        found.setdefault((task_id, problem), []).append(answer)
    return found


def cut_back(directory: Path, step: int) -> None:
    """Delete the evaluations after `step`; from the start (step 0) all of them, for that one is made again too."""
    for part in PARTS.values():
        for file in (directory / "evaluations").glob(f"{part}-*.parquet"):
            if step == 0 or int(file.stem.removeprefix(f"{part}-")) > step:
                file.unlink()


def _path(directory: Path, part: str, step: int) -> Path:
    return directory / "evaluations" / f"{PARTS[part]}-{step}.parquet"
