"""A few completions of each step as one table, read from the run's own parquet files."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("step", "task", "prompt", "completion", "answer", "reward", "finish_reason", "tokens", "advantage")
MAX_ROWS = 2000  # a table that a browser still opens; longer runs show every n-th step

_READ = [
    "task_id",
    "group",
    "rollout",
    "prompt",
    "completion",
    "answer",
    "reward",
    "finish_reason",
    "token_ids",
    "advantages",
]

log = logging.getLogger("retrain.tracking")


def completions_table(run_dir: Path, per_step: int) -> list[list[Any]]:
    """Return rows of `COLUMNS`: `per_step` completions of each step, of different tasks as far as there are any.

    `advantage` is the mean over the completion's tokens. A file that cannot be read is left out and named in the log.
    """
    files = sorted((run_dir / "rollouts").glob("step-*.parquet"), key=_step)
    stride = max(1, -(-len(files) * per_step // MAX_ROWS))
    rows: list[list[Any]] = []
    for file in files[::-stride][::-1] if per_step else []:  # counted from the end: the last step is always shown
        rows += _rows(file, per_step)
    return rows


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _rows(file: Path, per_step: int) -> list[list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(file, columns=_READ).to_pylist()
    except (OSError, pa.ArrowException) as error:
        log.warning("%s is left out of the completions table: %s", file, error)
        return []
    records.sort(key=lambda record: (record["rollout"], record["group"]))
    return [_row(_step(file), record) for record in records[:per_step]]


def _row(step: int, record: dict[str, Any]) -> list[Any]:
    advantages = record["advantages"] or [0.0]
    return [
        step,
        record["task_id"],
        record["prompt"],
        record["completion"],
        record["answer"],
        record["reward"],
        record["finish_reason"],
        len(record["token_ids"]),
        round(sum(advantages) / len(advantages), 4),
    ]
