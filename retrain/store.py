"""The run directory: what a run was, did and is. It is the truth; trackers are projections of it.

    config.toml  run.json  metrics.jsonl  rollouts/step-N.parquet  checkpoints/step-N/  adapter/
    tracking/  plots/  log.txt

One process writes here: the one that trains, under `.lock`. `tracking/` and `plots/` belong to the follower.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from retrain.errors import ConfigError, Interrupted, RetrainError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Bool
    from torch import Tensor

    from retrain.config.schema import RunConfig
    from retrain.types import Credit, Group

FORMAT = 1  # of run.json and of the files beside it
VERSIONED = ("retrain", "torch", "transformers", "trl", "peft", "accelerate", "hydra-core", "omegaconf", "mlflow")


# --- run.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`run.json`: who ran what, where, and how it ended. Times are unix seconds."""

    name: str
    state: str = "running"  # "running", "done", "failed", "interrupted"
    exit_reason: str = ""
    seed: int
    steps_done: int = 0
    max_steps: int
    started: float
    ended: float | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process_start: float = field(default_factory=lambda: process_start(os.getpid()) or 0.0)
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    source: str = ""  # the TOML it came from
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str = "none"
    num_trainable: int = 0
    artifact: str = ""
    format: int = FORMAT

    @classmethod
    def read(cls, directory: Path) -> RunRecord:
        """Read a run directory's record.

        Raises:
            ConfigError: there is none, it is damaged, or a newer version wrote it.
        """
        path = directory / "run.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{directory} is not a run directory: it has no run.json") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"{path} has format {values.get('format')}, this version reads {FORMAT}; use the retrain that wrote it"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error

    def write(self, directory: Path) -> None:
        write_atomically(directory / "run.json", json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    def is_alive(self) -> bool | None:
        """Whether the process that trains still runs; None when it is on another machine."""
        if self.host != socket.gethostname():
            return None
        return process_start(self.pid) == self.process_start


def process_start(pid: int) -> float | None:
    """When a process began, in clock ticks since boot: with the pid, that names a process. None: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _process_start_by_ps(pid)
    return None if fields[0] == "Z" else float(fields[19])


def _process_start_by_ps(pid: int) -> float | None:
    """The same where there is no /proc (macOS), as unix seconds."""
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607  ps is found on the path
    if not shown.stdout.strip():
        return None
    return dt.datetime.strptime(shown.stdout.strip(), "%c").astimezone().timestamp()


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader, or a crash, sees the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(path)


def installed_versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the working directory, and whether it has uncommitted changes; None outside a repository."""
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        ask = ["git", "-C", str(directory)]
        commit = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run(
            [*ask, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}
    return None


# --- where a run goes -----------------------------------------------------------------------------------------------


def planned_directory(config: RunConfig, name: str, now: dt.datetime) -> Path:
    """Where a run that starts now would go, before looking whether the place is taken."""
    if config.logging.log_dir:
        return Path(config.logging.log_dir).expanduser()
    return Path("outputs") / name / now.strftime("%Y-%m-%d_%H-%M-%S")


def claim_directory(wanted: Path) -> Path:
    """Create the run directory: `wanted`, or `wanted-2`, `wanted-3`, … when a run is already there.

    An existing directory without a run in it is used as it is.

    Raises:
        ConfigError: the place cannot be written.
    """
    number = 1
    while True:
        directory = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            marker = os.open(directory / ".lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if not directory.is_dir():
                raise ConfigError(f"{directory} is a file; choose another logging.log_dir") from None
            number += 1
            continue
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{directory} cannot be written: {reason}; choose another logging.log_dir") from error
        os.close(marker)
        return directory


def point_latest(directory: Path) -> None:
    """Make `latest` beside a run under outputs/ point to it."""
    if directory.parent.parent.name != "outputs":
        return
    link, aside = directory.parent / "latest", directory.parent / f".latest.{os.getpid()}"
    with contextlib.suppress(OSError):  # a file system without links has no `latest`; nothing else depends on it
        aside.symlink_to(directory.name, target_is_directory=True)
        aside.replace(link)


# --- metrics.jsonl --------------------------------------------------------------------------------------------------


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """Every whole line of metrics.jsonl; a torn last one, left by a crash, is not a line."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


# --- rollouts/ ------------------------------------------------------------------------------------------------------


def rollout_steps(directory: Path) -> list[int]:
    """Return the steps whose completions are on disk, in order."""
    files = (directory / "rollouts").glob("step-*.parquet")
    return sorted(int(file.stem.removeprefix("step-")) for file in files)


def read_rollouts(directory: Path, step: int) -> list[dict[str, Any]]:
    """Return every completion of a step as `write_rollouts` wrote it: one dict per row, `reward_parts` still text.

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


# --- the store ------------------------------------------------------------------------------------------------------


class RunStore:
    """A run directory held by the process that trains in it."""

    def __init__(self, directory: Path, config: RunConfig, record: RunRecord, lock: int) -> None:
        self.dir = directory
        self.config = config
        self.record = record
        self._lock = lock

    @classmethod
    def open(cls, directory: Path, config: RunConfig, record: RunRecord) -> Self:
        """Take the directory's lock and write `run.json`.

        Raises:
            ConfigError: another process is training in this directory.
        """
        lock = os.open(directory / ".lock", os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            holder = RunRecord.read(directory) if (directory / "run.json").exists() else None
            who = f" (process {holder.pid} on {holder.host})" if holder else ""
            raise ConfigError(f"{directory} is in use by a running training{who}; wait for it, or stop it") from None
        store = cls(directory, config, record, lock)
        store.update()
        return store

    def update(self, **changes: Any) -> None:
        """Change fields of `run.json`."""
        self.record = replace(self.record, **changes)
        self.record.write(self.dir)

    @contextlib.contextmanager
    def writing_outcome(self) -> Iterator[None]:
        """Record how the run ends, whatever happens inside, and give the lock back."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as stopped:
            reason = str(stopped) or "interrupted"
            self.update(state="interrupted", exit_reason=reason, ended=time.time())
            raise
        except RetrainError as error:
            self.update(state="failed", exit_reason=str(error), ended=time.time())
            raise
        except BaseException as error:
            self.update(state="failed", exit_reason=f"{type(error).__name__}: {error}", ended=time.time())
            raise
        else:
            self.update(state="done", ended=time.time())
        finally:
            os.close(self._lock)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics.jsonl, and the steps done into run.json.

        Raises:
            RunError: a value is not finite; the message names it.
        """
        broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise RunError(f"step {step}: {', '.join(broken)}")
        line = json.dumps({"step": step, "time": round(time.time(), 3), **metrics}, ensure_ascii=False)
        with (self.dir / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        self.update(steps_done=step)

    def cut_back(self, step: int) -> None:
        """Forget what was written after `step`, so that a resumed run writes no step twice."""
        kept = [line for line in read_metrics(self.dir) if line["step"] <= step]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        write_atomically(self.dir / "metrics.jsonl", text)
        for file in (self.dir / "rollouts").glob("step-*.parquet"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()

    def keeps_rollouts(self, step: int) -> bool:
        """Whether this step's completions stay on disk: logging.keep_rollouts."""
        keep = self.config.logging.keep_rollouts
        return keep == "all" or (keep != "none" and step % int(keep) == 0)

    def write_rollouts(
        self, step: int, groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None
    ) -> None:
        """Write every completion of a step, whole: ids, log-probabilities, advantages, reward and its parts."""
        if not self.keeps_rollouts(step):
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = list(_rollout_rows(groups, credit, planning))
        folder = self.dir / "rollouts"
        folder.mkdir(exist_ok=True)
        aside, final = folder / f".step-{step}.parquet", folder / f"step-{step}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=_rollout_schema()), aside, compression="zstd")
        aside.replace(final)


def _rollout_schema() -> Any:
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


def _rollout_rows(
    groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None
) -> Iterator[dict[str, Any]]:
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
