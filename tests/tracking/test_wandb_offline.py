"""Weights & Biases without a network: the run's folder holds the history, once."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from retrain.tracking import check_wandb, pending
from retrain.tracking.watermark import Sent
from tests.tracking.training import KEYS, Training, line_of, spawn_follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("wandb")
BLOCK = 32768  # of LevelDB's log format, in which wandb keeps an offline run


def records(file: Path) -> Iterator[Any]:
    """The records of an offline run: chunks of (crc32, length, type) and data, padded to blocks."""
    from wandb.proto import wandb_internal_pb2 as proto

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # a full record, or the last part of one
            record = proto.Record()  # pyright: ignore[reportAttributeAccessIssue]  generated at import
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(run_dir: Path) -> list[dict[str, Any]]:
    rows = []
    for file in sorted((run_dir / "tracking" / "wandb").glob("offline-run-*/*.wandb")):
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_an_offline_run_holds_every_step_once_also_over_a_resume(tmp_path: Path):
    training = (
        Training(tmp_path / "run", "none", wandb_project="p", wandb_tags=["a"])
        .steps(1, 4)
        .rollouts(1)
        .end("interrupted")
    )
    assert spawn_follower(training.dir, "--once", WANDB_MODE="offline").wait(90) == 0
    name = Sent.load(training.dir, "wandb").run_id
    training.resume(2).steps(3, 6).end()
    assert spawn_follower(training.dir, "--once", WANDB_MODE="offline").wait(90) == 0
    assert Sent.load(training.dir, "wandb").run_id == name
    assert pending(training.dir) == []
    rows = [row for row in history(training.dir) if "reward/mean" in row]
    lines = [line_of(step) for step in (1, 2, 3, 4)] + [line_of(step, attempt=1) for step in (5, 6)]
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [[row[key] for key in KEYS] for row in rows] == [[line[key] for key in KEYS] for line in lines]
    assert [row["_timestamp"] for row in rows] == [line["time"] for line in lines]
    assert not (tmp_path / "run" / "tracking" / "mlflow.json").exists()


def test_the_package_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch):
    assert check_wandb() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problem = check_wandb()
    assert problem is not None
    assert 'pip install "retrain[wandb]"' in str(problem)
