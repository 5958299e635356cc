"""Completions on disk: `RUN/rollouts/step-N.parquet`, a row each, with every token's numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from jaxtyping import Bool
    from torch import Tensor

    from retrain.types import Credit, Group


def steps(directory: Path) -> list[int]:
    """Return the steps whose completions are on disk, in order."""
    files = (directory / "rollouts").glob("step-*.parquet")
    return sorted(int(file.stem.removeprefix("step-")) for file in files)


def read(directory: Path, step: int) -> list[dict[str, Any]]:
    """Return every completion of a step as `write` wrote it: one dict per row, `reward_parts` still text.

    Raises:
        ConfigError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "rollouts" / f"step-{step}.parquet"
    try:
        with pq.ParquetFile(path) as file:
            return file.read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def write(
    directory: Path, step: int, groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None
) -> None:
    """Write every completion of a step, whole: ids, log-probabilities, advantages, reward and its parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(_rows(groups, credit, planning))
    folder = directory / "rollouts"
    folder.mkdir(exist_ok=True)
    aside, final = folder / f".step-{step}.parquet", folder / f"step-{step}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), aside, compression="zstd")
    aside.replace(final)


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns = {
        "task_id": text,
        "group": pa.int32(),
        "rollout": pa.int32(),
        "prompt": text,
        "completion": text,
        "answer": text,
        "token_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "entropies": pa.list_(pa.float32()),
        "advantages": pa.list_(pa.float32()),
        "uncertainty": pa.list_(pa.float32()),
        "planning": pa.list_(pa.bool_()),
        "reward": number,
        "reward_parts": text,
        "error": text,
        "finish_reason": text,
        "policy_version": pa.int32(),
        "prompt_tokens": pa.int32(),
    }
    return pa.schema(list(columns.items()))


def _rows(groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None) -> Iterator[dict[str, Any]]:
    advantages, uncertainty = credit.advantages.tolist(), credit.uncertainty.tolist()
    plans = None if planning is None else planning.tolist()
    row = 0
    for number, group in enumerate(groups):
        prompt = "\n".join(str(message["content"]) for message in group.task.prompt)
        for index, rollout in enumerate(group.rollouts):
            completion = rollout.completion
            yield {
                "task_id": group.task.id,
                "group": number,
                "rollout": index,
                "prompt": prompt,
                "completion": rollout.text,
                "answer": group.task.answer,
                "token_ids": list(completion.token_ids),
                "logprobs": list(completion.logprobs),
                "entropies": None if completion.entropies is None else list(completion.entropies),
                "advantages": advantages[row][: len(completion.token_ids)],
                "uncertainty": uncertainty[row][: len(completion.token_ids)],
                "planning": None if plans is None else plans[row][: len(completion.token_ids)],
                "reward": rollout.reward,
                "reward_parts": json.dumps(dict(rollout.parts), ensure_ascii=False),
                "error": rollout.error,
                "finish_reason": completion.finish_reason,
                "policy_version": completion.policy_version,
                "prompt_tokens": len(rollout.prompt_ids),
            }
            row += 1
