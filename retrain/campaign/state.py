"""What has become of a campaign: its manifest, and what its runs say of themselves.

manifest.json is written by the process that conducts the campaign. Between two changes of it, and after kill -9, the
runs' own files know more, so each run is asked too:

    planned       nothing of it is there yet, or it is to go on when its turn comes
    running       its process is alive, or its supervisor is starting it
    stalled       as in `retrain.runs`
    done, failed, interrupted
                  as its supervisor (exit.json) or the manifest says; else as in `retrain.runs`
    damaged       run.json cannot be read

A campaign is running, done, failed or interrupted as its manifest says; interrupted too where its process is gone, and
stalled where no run of it makes progress.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import statistics
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retrain import money
from retrain.campaign.manifest import Manifest
from retrain.errors import ConfigError
from retrain.runs import SILENT_SECONDS, RunState, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.campaign.manifest import RunEntry

ENDED = ("done", "failed", "interrupted")
UNFINISHED = ("planned", "running", "stalled")
TROUBLED = ("failed", "interrupted", "stalled", "damaged")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a campaign. `run` is None until there is a run.json."""

    name: str
    label: str
    seed: int
    directory: Path
    state: str
    cause: str = ""  # the likely cause of trouble, in a line
    attempts: int = 0
    started: float | None = None
    ended: float | None = None
    max_steps: int = 0  # 0: not known yet
    metric: float | None = None  # the last value of what the campaign is about
    run: RunState | None = None

    @property
    def steps_done(self) -> int:
        return self.run.steps_done if self.run else 0

    @property
    def has_price(self) -> bool:
        return bool(self.run and self.run.record and self.run.record.currency)


@dataclass(frozen=True, kw_only=True)
class CampaignState:
    """What has become of a campaign, at one moment. Times are unix seconds; None: not known."""

    directory: Path
    name: str
    state: str  # "running", "stalled", "interrupted", "failed", "done", "damaged"
    cause: str = ""
    kind: str = "campaign"  # or "multirun"
    metric: str = ""
    baseline: str = ""
    max_workers: int = 1
    cells: Sequence[Cell] = field(default_factory=tuple)
    unasked: int = 0  # runs of a search that nobody has proposed yet
    direction: str = ""  # of a search: "maximize", "minimize"
    eta_seconds: float | None = None  # until the last run has ended; only of a campaign that goes on
    started: float | None = None
    ended: float | None = None
    active_seconds: float | None = None  # that it was conducted
    host: str = ""
    pid: int = 0
    tracking_uri: str = "none"
    money: Mapping[str, float] = field(default_factory=dict)  # that its runs have cost, by currency; empty: no price

    @property
    def labels(self) -> list[str]:
        """The conditions, in the order of the TOML."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(cell.seed for cell in self.cells))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many runs are in which state, the states that there are."""
        return Counter(cell.state for cell in self.cells)

    @property
    def steps_done(self) -> int:
        return sum(cell.steps_done for cell in self.cells)

    @property
    def max_steps(self) -> int:
        """The steps of all runs; 0 where those of one are not known."""
        lengths = [cell.max_steps for cell in self.cells]
        return sum(lengths) + self.unasked * max(lengths, default=0) if all(lengths) else 0

    @property
    def number(self) -> int:
        """How many runs there are to be."""
        return len(self.cells) + self.unasked


def state_of_campaign(directory: Path, now: float | None = None, manifest: Manifest | None = None) -> CampaignState:
    """Find out what has become of a campaign. A missing, torn or damaged file never raises.

    manifest: what the process that conducts it holds; None: what is on the disk
    """
    now = time.time() if now is None else now
    try:
        manifest = manifest or _sound_manifest(directory)
    except ConfigError as error:
        cause = error.problems[0].message
        return CampaignState(directory=directory, name=directory.name, state="damaged", cause=cause)
    alive = _goes_on(directory, manifest, now)
    settings, cells = manifest.campaign, list[Cell]()
    metric, workers = str(settings.get("metric", "")), int(settings.get("max_workers", 1))
    for entry in manifest.runs:
        length = _length(directory / entry.directory, entry.label, settings, cells)
        cells.append(_cell(directory, entry, metric, length, alive=alive, now=now))
    state, cause = manifest.state, manifest.exit_reason
    if state == "running" and not alive:
        state, cause = "interrupted", f"killed: process {manifest.pid}, which conducted it, is gone"
    elif state == "running" and _stalls(cells):
        state, cause = "stalled", "no run of it makes progress"
    unasked = manifest.unasked * len(settings.get("seeds", ()))
    longest = max((cell.max_steps for cell in cells), default=0)
    ahead = Cell(name="", label="", seed=0, directory=directory, state="planned", max_steps=longest)
    return CampaignState(
        directory=directory,
        name=manifest.name,
        state=state,
        cause=cause,
        kind=manifest.kind,
        metric=metric,
        baseline=str(settings.get("baseline") or (cells[0].label if cells and not manifest.is_search else "")),
        max_workers=workers,
        cells=tuple(cells),
        unasked=unasked,
        direction=str(settings["sweeper_options"].get("direction", "maximize")) if manifest.is_search else "",
        eta_seconds=eta([*cells, *[ahead] * unasked], workers) if state == "running" else None,
        started=manifest.created,
        ended=manifest.ended,
        active_seconds=(manifest.conducted() or None) if manifest.ended is not None else None,
        host=manifest.host,
        pid=manifest.pid,
        tracking_uri=manifest.tracking_uri,
        money=money.spent(cell.directory for cell in cells if cell.has_price),
    )


def _sound_manifest(directory: Path) -> Manifest:
    """Read manifest.json, and see that what is computed with is of its type.

    Raises:
        ConfigError: it cannot be read, or a value is not what it should be.
    """
    manifest = Manifest.read(directory)
    texts = [
        manifest.name,
        manifest.state,
        *(t for run in manifest.runs for t in (run.label, run.directory, run.state)),
    ]
    workers = manifest.campaign.get("max_workers", 1) if isinstance(manifest.campaign, dict) else 0
    if not all(isinstance(text, str) for text in texts) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"{directory / 'manifest.json'} is damaged: a value has the wrong type")
    options = manifest.campaign.get("sweeper_options")
    if manifest.is_search and not (isinstance(options, dict) and isinstance(options.get("n_trials"), int)):
        raise ConfigError(f"{directory / 'manifest.json'} is damaged: it does not say how many trials there are")
    return manifest


def _goes_on(directory: Path, manifest: Manifest, now: float) -> bool:
    """Tell whether the process that conducts a campaign is there; on another machine, whether its runs write."""
    alive = manifest.state == "running" and manifest.is_alive()
    if alive is not None:
        return alive
    files = [directory / "manifest.json", directory / "log.txt"]
    files += [directory / run.directory / "heartbeat.json" for run in manifest.runs if run.state == "running"]
    written = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return now - written <= SILENT_SECONDS


def _stalls(cells: Sequence[Cell]) -> bool:
    active = [cell.state for cell in cells if cell.state in ("running", "stalled")]
    return bool(active) and "running" not in active


# --- one run --------------------------------------------------------------------------------------------------------


def _cell(directory: Path, entry: RunEntry, metric: str, length: int, *, alive: bool, now: float) -> Cell:
    folder = directory / entry.directory
    run = state_of(folder, now) if (folder / "run.json").is_file() else None
    state, cause = _judged(entry, run, _exit(folder), alive=alive)
    return Cell(
        name=entry.name,
        label=entry.label,
        seed=entry.seed,
        directory=folder,
        state=state,
        cause=cause,
        attempts=entry.attempts,
        started=run.started if run and run.started else entry.started,
        ended=None if state in UNFINISHED else entry.ended or (run.ended if run else None),
        max_steps=run.max_steps if run and run.max_steps else length,
        metric=_metric(folder, run, metric),
        run=run,
    )


def _judged(entry: RunEntry, run: RunState | None, exit_record: Mapping[str, Any], *, alive: bool) -> tuple[str, str]:
    """Return a run's state and the likely cause of its trouble.

    A run that is alive or done knows best. Why one ended badly its supervisor knows best: it has seen the signal.
    """
    if run is not None and run.state in ("running", "stalled", "done"):
        return run.state, run.cause
    if alive and entry.state in ("running", "planned"):
        return entry.state, ""  # being started, maybe again; or its turn comes, however an earlier attempt ended
    for state, reason in (
        (exit_record.get("state"), exit_record.get("exit_reason")),
        (entry.state, entry.exit_reason),
    ):
        if state in ENDED:
            said = str(reason or (run.cause if run else ""))
            return str(state), _first_line(said) if state in TROUBLED else ""
    if run is not None:
        return run.state, run.cause
    if entry.state == "running":
        return "interrupted", "it was ended before its run directory was written"
    return "planned", ""


def _exit(folder: Path) -> dict[str, Any]:
    """Return what the supervisor of a run has written at its end; empty while there is nothing."""
    try:
        found = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason is recorded")


def _length(folder: Path, label: str, settings: Mapping[str, Any], before: Sequence[Cell]) -> int:
    """Return the steps of a run that has not begun: those of its condition, its config.toml or the campaign."""
    for cell in before:
        if cell.label == label and cell.max_steps:
            return cell.max_steps
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["training"]["max_steps"])
    return int(settings.get("max_steps") or 0)


def _metric(folder: Path, run: RunState | None, metric: str) -> float | None:
    """Return the last value of a metric."""
    if run is None or not metric:
        return None
    known = {"eval/score": run.eval_score, "reward/mean": run.reward, "reward/correct_rate": run.correct_rate}
    if metric in known:
        return known[metric]
    values = Curves(metric).of(folder)
    return values[-1] if values else None


class Curves:
    """The values of one metric of runs, read once: a later look reads only what has been added since."""

    def __init__(self, metric: str = "reward/mean") -> None:
        self._value = re.compile(rb'"' + re.escape(metric).encode() + rb'":\s*(-?[0-9][0-9.eE+-]*)')
        self._read: dict[Path, tuple[int, list[float]]] = {}

    def of(self, directory: Path) -> list[float]:
        """Return the values of a run's whole lines, oldest first; empty where there are none."""
        offset, values = self._read.get(directory, (0, []))
        try:
            with (directory / "metrics.jsonl").open("rb") as handle:
                if handle.seek(0, 2) < offset:  # cut back when the run went on from a checkpoint
                    offset, values = 0, []
                handle.seek(offset)
                added = handle.read()
        except OSError:
            return values
        whole = added[: added.rfind(b"\n") + 1]
        values = values + [float(found) for found in self._value.findall(whole)]
        self._read[directory] = (offset + len(whole), values)
        return values


# --- the time that is left ------------------------------------------------------------------------------------------


def eta(cells: Sequence[Cell], workers: int) -> float | None:
    """Return the seconds until the last run has ended; None while no step has told how long one takes.

    Each condition has its own pace; one without takes the median of the others. Runs are given to `workers` in the
    order of the plan, each to the first that is free.
    """
    paces = dict(_paces(cells))
    if not paces:
        return None
    usual = statistics.median(paces.values())
    free = [0.0] * workers
    unfinished = [cell for cell in cells if cell.state in UNFINISHED]
    for cell in sorted(unfinished, key=lambda cell: cell.state == "planned"):  # those that are under way come first
        left = (cell.max_steps - cell.steps_done) * paces.get(cell.label, usual)
        if cell.run is not None and cell.run.eta_seconds is not None:
            left = min(left, cell.run.eta_seconds) if left else cell.run.eta_seconds
        heapq.heapreplace(free, free[0] + max(0.0, left))
    return max(free)


def _paces(cells: Sequence[Cell]) -> Iterator[tuple[str, float]]:
    """Yield the seconds a step of each condition that has any: of finished runs, start and evaluations included."""
    for label in dict.fromkeys(cell.label for cell in cells):
        ours = [cell for cell in cells if cell.label == label and cell.run is not None]
        whole = [
            (cell.run.active_seconds or cell.run.ended - cell.run.started) / cell.run.steps_done
            for cell in ours
            if cell.run and cell.state == "done" and cell.run.ended and cell.run.started and cell.run.steps_done
        ]
        steps = [cell.run.seconds_per_step for cell in ours if cell.run and cell.run.seconds_per_step is not None]
        if found := whole or steps:
            yield label, statistics.median(found)
