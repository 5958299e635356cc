"""The run directory: what a run was, did and is. It is the truth; trackers are projections of it.

    config.toml  run.json  metrics.jsonl  rollouts/step-N.parquet  evaluations/step-N.parquet  checkpoints/step-N/
    adapter/  adapter-best/  heartbeat.json  stacks.txt  debug/  tracking/  plots/  log.txt

One process writes here: the one that trains, under `.lock`. `tracking/` and `plots/` belong to the follower.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from retrain import evaluations, rollouts
from retrain.capabilities import MONEY
from retrain.errors import ConfigError, Interrupted, RetrainError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Bool
    from torch import Tensor

    from retrain.config.schema import RunConfig
    from retrain.evaluations import Answer
    from retrain.types import Credit, Group, Task

FORMAT = 1  # of run.json and of the files beside it
BESIDE_IT = (
    "metrics.jsonl, checkpoints and adapter beside it may be whole all the same: a new run can start from the adapter"
)
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
VERSIONED = ("retrain", "torch", "transformers", "trl", "peft", "accelerate", "hydra-core", "omegaconf", "mlflow")


# --- run.json ------------------------------------------------------------------------------------------------------


def slurm_job() -> dict[str, str]:
    """Return which SLURM job this process belongs to, and how often it was requeued; empty outside SLURM."""
    named = {"job": "SLURM_JOB_ID", "restarts": "SLURM_RESTART_COUNT"}
    job = {name: os.environ[variable] for name, variable in named.items() if variable in os.environ}
    return {"restarts": "0", **job} if "job" in job else {}


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
    active_seconds: float = 0.0  # that processes have worked on it, those that were killed apart
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process_start: float = field(default_factory=lambda: process_start(os.getpid()) or 0.0)
    slurm: dict[str, str] = field(default_factory=slurm_job)
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    source: str = ""  # the TOML it came from
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str = "none"
    num_trainable: int = 0
    artifact: str = ""
    currency: str = ""  # of what its steps cost; "": the backend has no price
    money_redone: float = 0.0  # spent on steps that were cut back when it went on from a checkpoint
    best: dict[str, float] | None = None  # {"step": 40, "score": 0.71}, by held-out score
    problems: list[dict[str, Any]] = field(default_factory=list)  # retrain.health: rule, step, message, hint, …, until
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
            raise ConfigError(f"{path} cannot be read: {error}", BESIDE_IT) from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} is damaged: it holds no table", BESIDE_IT)
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"{path} has format {values.get('format')}, this version reads {FORMAT}; use the retrain that wrote it"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"{path} is damaged: {error}", BESIDE_IT) from error

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
    aside = path.with_name(f".{path.name}.partial")
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
    lines = path.read_bytes().split(b"\n")[:-1]  # as bytes: a torn line may end within a character
    return [json.loads(line) for line in lines if line]


def steps_done(directory: Path) -> int:
    """Return how many steps a run has written a line of, also where run.json could not say so any more."""
    lines = read_metrics(directory)
    return int(lines[-1]["step"]) if lines else 0


# --- the store ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def needed(directory: Path) -> Iterator[None]:
    """Name the run directory when it cannot be written inside the block.

    Raises:
        RunError: it cannot; what was complete in it stays.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        raise RunError(f"{directory} cannot be written: {error}") from error


class RunLock:
    """The right to write in a run directory: one process at a time has it, and loses it when it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> Self:
        """Take the lock of a directory.

        Raises:
            ConfigError: another process has it; the message names that one.
        """
        try:
            descriptor = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise ConfigError(f"{directory} is being trained by {holder}", "wait for it, or stop it") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        """Let the next one in; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RunStore:
    """A run directory held by the process that trains in it. Threads may call it."""

    def __init__(
        self, directory: Path, config: RunConfig, record: RunRecord, lock: RunLock, *, began: float | None = None
    ) -> None:
        """Write `run.json`; the caller holds the directory's lock, and this object gives it back at the end.

        began: when this process began to work on the run, its model's loading included; None: now
        """
        self.dir = directory
        self.config = config
        self.record = record
        self._lock = lock
        self._updating, self._opened = threading.Lock(), time.time() if began is None else began
        self.update()

    def update(self, **changes: Any) -> None:
        """Change fields of `run.json`."""
        with self._updating:
            self.record = replace(self.record, **changes)
            self.record.write(self.dir)

    @contextlib.contextmanager
    def writing_outcome(self) -> Iterator[None]:
        """Record how the run ends, whatever happens inside, and give the lock back."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as stopped:
            self._ended(state="interrupted", exit_reason=str(stopped) or "interrupted")
            raise
        except RetrainError as error:
            self._ended(state="failed", exit_reason=str(error))
            raise
        except BaseException as error:
            self._ended(state="failed", exit_reason=f"{type(error).__name__}: {error}")
            raise
        else:
            self.update(state="done", **self._times())
        finally:
            self._lock.release()

    def _ended(self, **how: str) -> None:
        """Record a bad end, where the disk takes it: what went wrong is more use than that this was not written."""
        with contextlib.suppress(OSError):
            self.update(**how, **self._times())

    def _times(self) -> dict[str, float]:
        now = time.time()
        return {"ended": now, "active_seconds": self.record.active_seconds + now - self._opened}

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics.jsonl. The steps done reach run.json when something else is written there.

        Raises:
            RunError: a value is not finite; the message names it.
        """
        broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise RunError(f"step {step}: {', '.join(broken)}")
        line = json.dumps({"step": step, "time": round(time.time(), 3), **metrics}, ensure_ascii=False)
        with (self.dir / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        with self._updating:
            self.record = replace(self.record, steps_done=step)

    def sync(self) -> None:
        """Make sure that the lines so far survive a power cut; a checkpoint is not written before."""
        path = self.dir / "metrics.jsonl"
        if path.exists():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())

    def cut_back(self, step: int) -> None:
        """Forget what was written after `step`, so that a resumed run writes no step twice.

        From the start (step 0) everything goes, the evaluation before the first step too: it is made again.
        """
        lines = read_metrics(self.dir)
        kept = [line for line in lines if line["step"] <= step and step > 0]
        if redone := sum(line.get(MONEY, 0.0) for line in lines[len(kept) :]):
            self.update(money_redone=self.record.money_redone + redone)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        write_atomically(self.dir / "metrics.jsonl", text)
        for file in (self.dir / "rollouts").glob("step-*.parquet"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        evaluations.cut_back(self.dir, step)

    def keeps_rollouts(self, step: int) -> bool:
        """Whether this step's completions stay on disk: logging.keep_rollouts."""
        keep = self.config.logging.keep_rollouts
        return keep == "all" or (keep != "none" and step % int(keep) == 0)

    def write_rollouts(
        self, step: int, groups: Sequence[Group], credit: Credit, planning: Bool[Tensor, "B T"] | None
    ) -> None:
        """Write every completion of a step, where they are kept (`retrain.rollouts`)."""
        if self.keeps_rollouts(step):
            rollouts.write(self.dir, step, groups, credit, planning)

    def write_evaluation(
        self, part: str, step: int, tasks: Sequence[Task], answers: Sequence[Sequence[Answer]]
    ) -> None:
        """Write the answers of an evaluation (`retrain.evaluations`); their texts where those of the step are kept."""
        evaluations.write(self.dir, part, step, tasks, answers, texts=self.keeps_rollouts(step))
