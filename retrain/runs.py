"""What has become of a run.

`run.json` says how a run ended, if it could. Whether it still goes on is derived when somebody asks, for nobody can
write after kill -9:

    running       run.json says so and the process is alive
    stalled       the same without any progress for health.stall_timeout seconds
    interrupted   as run.json says, or run.json says running and the process is gone
    done, failed  as run.json says
    damaged       run.json cannot be read

On another machine nobody can look for the process. What it writes is looked at instead: its watchdog replaces
heartbeat.json every few seconds, whatever the run does. A run there whose files are older than three minutes is
stalled, and `--resume auto` takes it for dead: a job that a cluster starts again on another node must. Hosts whose
clocks differ by minutes spoil that; the lock of the run directory is what keeps two processes apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import tomllib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.config.schema import Health
from retrain.errors import ConfigError
from retrain.references import OUTPUTS, campaign_of, is_run, runs_under, started
from retrain.store import BESIDE_IT, RunRecord, slurm_job

if TYPE_CHECKING:
    from collections.abc import Iterator

TAIL_BYTES = 64 * 1024  # of metrics.jsonl: about fifty steps
EVALUATION_BYTES = 1024 * 1024  # how far back the last evaluation is looked for, where there was one
PACE_STEPS = 20  # the time of a step is the median of so many
SILENT_SECONDS = 180.0  # a run on another machine that has written nothing for so long is taken for dead


# --- what goes on, and what can be gone on with ---------------------------------------------------------------------


def newest_unfinished(name: str, source: Path, log_dir: str = "") -> Path | None:
    """Return the run that `--resume auto` goes on with: the newest one of a TOML that has ended before it was done.

    name:    the TOML's name, whose runs are in outputs/NAME/
    source:  the TOML; runs of another one of the same name are not looked at
    log_dir: logging.log_dir; if it is set, that folder, LOG_DIR-2, LOG_DIR-3, … are looked at instead

    Runs that still go on are left alone, and so are those of a campaign and those whose run.json is damaged.
    """
    wanted = str(source.resolve())
    candidates = _in_log_dir(Path(log_dir).expanduser()) if log_dir else runs_under(OUTPUTS / name)
    for run in reversed(candidates):
        try:
            record = sound_record(run)
        except ConfigError:
            continue
        unfinished = record.source == wanted and record.state != "done" and not goes_on(run, record)
        if unfinished and campaign_of(run) is None:
            return run
    return None


def _in_log_dir(first: Path) -> list[Path]:
    """Return the runs that `store.claim_directory` has put at `first` and beside it, oldest first."""
    beside = [path for path in first.parent.glob("*") if re.fullmatch(re.escape(first.name) + r"-\d+", path.name)]
    return sorted(filter(is_run, [first, *beside]), key=started)


def goes_on(directory: Path, record: RunRecord, now: float | None = None) -> bool:
    """Tell whether the process of a run is alive; on another machine, whether it has written something lately."""
    if record.state != "running":
        return False
    alive = record.is_alive()
    if alive is not None:
        return alive
    ours = slurm_job()
    if ours and ours["job"] == record.slurm.get("job") and ours != record.slurm:
        return False  # the same job, requeued: its earlier processes are gone
    files = [directory / name for name in ("run.json", "metrics.jsonl", "heartbeat.json")]
    written = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return (time.time() if now is None else now) - written <= SILENT_SECONDS


# --- state ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What has become of a run, at one moment. Times are unix seconds; None: not known."""

    directory: Path
    name: str
    state: str  # "running", "stalled", "interrupted", "failed", "done", "damaged"
    cause: str = ""  # the likely cause of trouble, in a line; "": no trouble
    phase: str = ""  # "evaluate", "generate", "score", "train", "save"; of a killed run the one it was killed in
    phase_seconds: float | None = None  # its age; only of a run that goes on
    steps_done: int = 0
    max_steps: int = 0
    reward: float | None = None  # reward/mean of the last step
    correct_rate: float | None = None
    eval_score: float | None = None  # the last held-out score
    eval_step: int | None = None
    best_score: float | None = None
    best_step: int | None = None
    seconds_per_step: float | None = None
    eta_seconds: float | None = None  # until the last step; only of a run that makes progress
    started: float | None = None
    ended: float | None = None  # of a killed run: its last sign of life
    active_seconds: float | None = None  # that processes have worked on it, those that were killed apart
    exit_reason: str = ""
    problems: list[dict[str, Any]] = field(default_factory=list)  # rules of retrain.health that are broken now
    stacks: str = ""  # the file in the run directory with the stacks of a stalled run
    record: RunRecord | None = None  # run.json; None: damaged


def state_of(directory: Path, now: float | None = None) -> RunState:
    """Find out what has become of a run. Of metrics.jsonl only the end is read.

    A missing, torn or damaged file never raises: what it would have said is not known.
    """
    now = time.time() if now is None else now
    try:
        record = sound_record(directory)
        alive = record.is_alive() if record.state == "running" else None
        if alive is False:
            record = sound_record(directory)  # it may have ended properly between the two looks
    except ConfigError as error:
        return RunState(directory=directory, name=directory.name, state="damaged", cause=error.problems[0].message)
    lines = last_lines(directory, evaluated=record.best is not None)
    beat = _heartbeat(directory) if record.state == "running" else {}
    life = max(_number(beat, "beat") or 0.0, lines.last.get("time", 0.0), record.started)
    state, ended = record.state, record.ended
    if state == "running" and alive is False:
        state, ended = "interrupted", life
    elif state == "running":
        silent = beat.get("stalled") is True or now - life > _stall_timeout(directory)
        state = "stalled" if silent or not goes_on(directory, record, now) else "running"
    steps = int(lines.last.get("step", record.steps_done))
    best, since = record.best or {}, _number(beat, "since")
    problems = [item for item in record.problems if isinstance(item, dict) and item.get("until") is None]
    found = RunState(
        directory=directory,
        name=record.name,
        state=state,
        phase=str(beat.get("phase") or ""),
        phase_seconds=None if since is None or alive is False else max(0.0, now - since),
        steps_done=steps,
        max_steps=record.max_steps,
        reward=lines.trained.get("reward/mean"),
        correct_rate=lines.trained.get("reward/correct_rate"),
        eval_score=lines.evaluated.get("eval/score"),
        eval_step=_whole(lines.evaluated, "step"),
        best_score=_number(best, "score"),
        best_step=_whole(best, "step"),
        seconds_per_step=lines.seconds_per_step,
        eta_seconds=_eta(lines, record.max_steps - steps, now) if state == "running" else None,
        started=record.started,
        ended=ended,
        active_seconds=record.active_seconds or None,
        exit_reason=record.exit_reason,
        problems=problems,
        stacks="stacks.txt" if state == "stalled" and (directory / "stacks.txt").is_file() else "",
        record=record,
    )
    return replace(found, cause=_cause(found, record, now - life))


def sound_record(directory: Path) -> RunRecord:
    """Read run.json, and see that what is computed with is of its type.

    Raises:
        ConfigError: it cannot be read, or a value is not what it should be.
    """
    path = directory / "run.json"
    try:
        record = RunRecord.read(directory)
    except AttributeError:  # JSON, but no object
        raise ConfigError(f"{path} is damaged: it holds no table", BESIDE_IT) from None
    needed = {
        "name": str, "state": str, "exit_reason": str, "host": str, "pid": int, "source": str, "steps_done": int,
        "max_steps": int, "started": (int, float), "ended": (int, float, type(None)), "problems": list,
        "best": (dict, type(None)),
    }  # fmt: skip
    wrong = [name for name, kinds in needed.items() if not isinstance(getattr(record, name), kinds)]
    if wrong:
        raise ConfigError(f"{path} is damaged: {wrong[0]} is {getattr(record, wrong[0])!r}", BESIDE_IT)
    return record


def _stall_timeout(directory: Path) -> float:
    """Return health.stall_timeout of a run; the default where its config is damaged or has an interpolation there."""
    limit = Health().stall_timeout
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        config = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
        limit = float(config.get("health", {}).get("stall_timeout", limit))
    return limit


def _eta(lines: LastLines, left: int, now: float) -> float | None:
    """Seconds until the last step is done; it counts down while a step is under way, by no more than that step."""
    if (pace := lines.seconds_per_step) is None:
        return None
    return max(0.0, left * pace - min(max(0.0, now - lines.last["time"]), pace))


def _cause(found: RunState, record: RunRecord, silent: float) -> str:
    """Name the likely cause of trouble, in a line; empty when there is no trouble."""
    phase = f" in phase {found.phase}" if found.phase else ""
    if found.state == "stalled":
        cause = f"no progress for {age(silent)}{phase}"
        if found.stacks:
            return f"{cause}; what each thread does is in {found.directory / found.stacks}"
        here = record.is_alive() is not None
        return cause if here else f"{cause}; look on {record.host} whether process {record.pid} is alive"
    if found.state == "interrupted" and record.state == "running":
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.ended))
        return f"killed: process {record.pid} is gone since about {at}{phase}; kill -9, out of memory, or a restart"
    if found.state in ("failed", "interrupted"):
        return next((line.strip() for line in record.exit_reason.splitlines() if line.strip()), "no reason is recorded")
    if found.problems:
        last, more = found.problems[-1], len(found.problems) - 1
        return f"{last.get('rule', 'problem')}: {last.get('message', '')}" + (f" (and {more} more)" if more else "")
    return ""


def age(seconds: float) -> str:
    """Write a duration in one unit: ``40 s``, ``12 min``, ``5 h``, ``3 days``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- the files beside run.json --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LastLines:
    """The end of metrics.jsonl: its last whole line, and the last ones of two kinds. Empty: there is none."""

    last: dict[str, float]
    trained: dict[str, float]  # with reward/mean; an evaluation before the first step has a line without
    evaluated: dict[str, float]  # with eval/score
    seconds_per_step: float | None


def last_lines(directory: Path, *, evaluated: bool = False) -> LastLines:
    """Read the end of metrics.jsonl; lines that are torn or are no object are skipped.

    evaluated: there was an evaluation, so it is worth to look further back for it.
    """
    path = directory / "metrics.jsonl"
    raw, mark = _tail(path, TAIL_BYTES), b'"eval/score"'
    newest = list(_parsed(raw, PACE_STEPS + 1))
    if evaluated and not any(mark in line for line in raw):
        raw = _tail(path, EVALUATION_BYTES)
    gaps = sorted(
        later["time"] - earlier["time"]
        for later, earlier in pairwise(newest)
        if later["step"] - earlier["step"] == 1 and later["time"] >= earlier["time"]
    )
    return LastLines(
        last=newest[0] if newest else {},
        trained=next((line for line in newest if "reward/mean" in line), {}),
        evaluated=next(_parsed([line for line in raw if mark in line], 1), {}),
        seconds_per_step=gaps[len(gaps) // 2] if gaps else None,
    )


def _tail(path: Path, size: int) -> list[bytes]:
    """Return the whole lines within the last `size` bytes of a file; none where there is no file."""
    try:
        with path.open("rb") as handle:
            begin = max(0, handle.seek(0, os.SEEK_END) - size)
            handle.seek(begin)
            lines = handle.read().split(b"\n")
    except OSError:
        return []
    return lines[1 if begin else 0 : -1]


def _parsed(raw: list[bytes], count: int) -> Iterator[dict[str, float]]:
    """Yield the newest `count` sound lines, newest first, with those of their values that are numbers."""
    for line in reversed(raw):
        if count == 0:
            return
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
            if "step" in numbers and "time" in numbers:
                count -= 1
                yield numbers


def _heartbeat(directory: Path) -> dict[str, Any]:
    """Return heartbeat.json; empty where there is none or it is damaged."""
    try:
        values = json.loads((directory / "heartbeat.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole(values: dict[str, Any], name: str) -> int | None:
    value = _number(values, name)
    return None if value is None else int(value)
