"""A run directory as the training process leaves it, at any moment of its life, and an eye into MLflow's database."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from retrain.config.schema import RunConfig
from retrain.store import RunRecord, process_start

START = 1_763_870_000.0
KEYS = (
    "reward/mean",
    "reward/correct_rate",
    "completion/length_mean",
    "completion/length_max",
    "entropy/mean",
    "time/total",
)


def line_of(step: int, attempt: int = 0) -> dict[str, float]:
    """The line of a step; another attempt at it (after a resume) measures other values at another time."""
    values = [0.2 + step / 100 + attempt / 7, 0.25 + step / 80, 30.0 + step, 60.0 + step, 1.0 / step, 0.5]
    return {"step": step, "time": START + step + 1000 * attempt + 0.125, **dict(zip(KEYS, values, strict=True))}


class Training:
    """Plays the training process: writes what it writes, in its order."""

    def __init__(self, directory: Path, uri: str, **logging: Any) -> None:
        self.dir, self.attempt = directory, 0
        directory.mkdir(parents=True)
        config = RunConfig()
        config.logging = replace(config.logging, tracking_uri=uri, **logging)
        config.training.max_steps = 40
        self.write_config(config)
        self.record = RunRecord(
            name=directory.name,
            seed=42,
            max_steps=40,
            started=START,
            source="mini.toml",
            git={"commit": "0123abc", "dirty": False},
            dataset={"name": "arithmetic", "rows": 1000, "digest": "feedbeef"},
            tracking_uri=uri,
        )
        self.record.write(directory)

    def write_config(self, config: RunConfig) -> None:
        self.config = config
        (self.dir / "config.toml").write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")

    def steps(self, first: int, last: int) -> Training:
        with (self.dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            for step in range(first, last + 1):
                file.write(json.dumps(line_of(step, self.attempt)) + "\n")
                file.flush()
        return self.update(steps_done=last)

    def update(self, **changes: Any) -> Training:
        self.record = replace(self.record, **changes)
        self.record.write(self.dir)
        return self

    def end(self, state: str = "done", **changes: Any) -> Training:
        return self.update(state=state, ended=START + 5000 + 1000 * self.attempt, **changes)

    def resume(self, step: int) -> Training:
        """Go on after `step`: cut metrics.jsonl back, say so in run.json, measure anew from there on."""
        self.attempt += 1
        path = self.dir / "metrics.jsonl"
        kept = [text for text in path.read_text().splitlines() if json.loads(text)["step"] <= step]
        path.write_text("".join(text + "\n" for text in kept))
        return self.update(state="running", ended=None, steps_done=step)

    def die(self) -> Training:
        """As after kill −9: run.json says running, and names a process that is gone."""
        gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        start = process_start(gone.pid)
        gone.communicate(b"\n")
        return self.update(pid=gone.pid, process_start=start, host=socket.gethostname())

    def rollouts(self, *steps: int) -> Training:
        folder = self.dir / "rollouts"
        folder.mkdir(exist_ok=True)
        for step in steps:
            pq.write_table(
                pa.Table.from_pylist([_rollout(step, row) for row in range(6)]), folder / f"step-{step}.parquet"
            )
        return self


def _rollout(step: int, row: int) -> dict[str, Any]:
    """Row of a batch of three groups of two completions."""
    return {
        "task_id": f"arithmetic-{step * 3 + row // 2}",
        "group": row // 2,
        "rollout": row % 2,
        "prompt": "17+25=",
        "completion": f"\\boxed{{{42 + row % 2}}} é",
        "answer": "42",
        "token_ids": [5, 6, 7],
        "logprobs": [-0.1, -0.2, -0.3],
        "entropies": None,
        "advantages": [0.5, 0.25, 0.0] if row % 2 == 0 else [],
        "reward": 1.0 if row % 2 == 0 else None,
        "reward_parts": "{}",
        "error": "",
        "finish_reason": "stop",
        "policy_version": step - 1,
        "prompt_tokens": 6,
    }


class Database:
    """MLflow's sqlite store, read without MLflow: every row as it is, doubled ones too."""

    def __init__(self, uri: str) -> None:
        self.path = Path(uri.removeprefix("sqlite:///"))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=20)) as database:
            return database.execute(query, values).fetchall()

    def runs(self, directory: Path) -> list[str]:
        """Ids of the runs that say they mirror `directory`."""
        query = "select run_uuid from tags where key = 'retrain.dir' and value = ?"
        return [run for (run,) in self.rows(query, str(directory))]

    def points(self, run: str) -> Counter[tuple[str, int, int, float]]:
        """(key, step, milliseconds, value), each with how often it is stored; final/* apart."""
        query = "select key, step, timestamp, value from metrics where run_uuid = ? and key not like 'final/%'"
        return Counter(self.rows(query, run))

    def tags(self, run: str) -> dict[str, str]:
        return dict(self.rows("select key, value from tags where run_uuid = ?", run))

    def params(self, run: str) -> dict[str, str]:
        return dict(self.rows("select key, value from params where run_uuid = ?", run))

    def status(self, run: str) -> str:
        return self.rows("select status from runs where run_uuid = ?", run)[0][0]

    def artifacts(self, run: str) -> Path:
        return Path(self.rows("select artifact_uri from runs where run_uuid = ?", run)[0][0].removeprefix("file://"))


def expected(lines: list[dict[str, float]]) -> Counter[tuple[str, int, int, float]]:
    """What the tracker must hold of these lines, each point once."""
    return Counter((key, int(line["step"]), int(line["time"] * 1000), line[key]) for line in lines for key in KEYS)


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def spawn_follower(run_dir: Path, *options: str, **env: str) -> subprocess.Popen[bytes]:
    """A follower, its words in tracking/follower.log."""
    (run_dir / "tracking").mkdir(exist_ok=True)
    with (run_dir / "tracking" / "follower.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "retrain.tracking", str(run_dir), *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )
