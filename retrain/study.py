"""The runs that are to be compared: read from their directories, and put together as conditions × seeds.

A campaign's manifest says what was planned, which conditions there are and what they are compared by. Runs that were
started one by one, and runs of several campaigns, are conditions by what differs in their configs. Everything can be
read while it is being written: a run without a directory is one that is planned.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain.errors import ConfigError, unknown_name
from retrain.resuming import MAY_CHANGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    Measure = Callable[["Run"], float | None]

METRIC = "eval/score"
TRAINING = "reward/mean"
TAIL = 0.1  # share of the training steps at the end
NOT_COMPARED = (MAY_CHANGE - {"training.max_steps"}) | {"training.seed"}  # places, saving, logging, health; the unit
SECTIONS_NOT_COMPARED = ("logging", "health", "resume", "campaign")
UNFINISHED = ("planned", "running", "interrupted", "skipped")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as far as it is. state: planned, running, done, failed, interrupted or skipped."""

    name: str
    label: str
    seed: int
    directory: Path
    state: str
    exit_reason: str = ""
    started: float | None = None
    ended: float | None = None
    planned_steps: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)  # by dotted key, without what is not compared
    lines: Sequence[Mapping[str, float]] = ()  # of metrics.jsonl
    record: Mapping[str, Any] = field(default_factory=dict)  # run.json

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps at which a metric was measured, and its values."""
        found = [(line["step"], line[key]) for line in self.lines if key in line]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)

    def total(self, key: str) -> float:
        """Return the sum of a metric over all steps: tokens, seconds."""
        return math.fsum(line.get(key, 0.0) for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared. Larger values of the metric are better.

    labels: of the conditions, the baseline first
    floor:  failed runs count, with the lowest value there is, or 0 if that is lower
    """

    name: str
    metric: str
    baseline: str
    min_effect: float
    labels: Sequence[str]
    runs: Sequence[Run]
    floor: bool = False
    compared: Sequence[str] = ()  # config keys that tell conditions apart
    looks: Sequence[Mapping[str, Any]] = ()  # times at which somebody compared before the end
    manifest: Mapping[str, Any] = field(default_factory=dict)  # of the campaign, when it is one

    def of(self, label: str) -> list[Run]:
        return [run for run in self.runs if run.label == label]

    def lost(self, label: str) -> list[Run]:
        """Return the runs that ended without a value: failed, or done without the metric at the planned last step."""
        return [r for r in self.of(label) if r.state == "failed" or (r.state == "done" and self.final(r) is None)]

    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.state in UNFINISHED]

    def final(self, run: Run) -> float | None:
        return at_last_step(run, self.metric)

    def values(self, label: str, measure: Measure) -> dict[int, float]:
        """Return a condition's value for each seed; several runs of one seed are one value, their mean.

        A seed with a lost run has none, unless failures count at the floor. A run that is not finished yet hides no
        other of its seed.
        """
        lost = {id(run) for run in self.lost(label)}
        found: dict[int, list[float | None]] = {}
        for run in self.of(label):
            if run.state in UNFINISHED:
                continue
            value = measure(run) if id(run) not in lost else None
            if id(run) in lost and self.floor:
                value = self.lowest(measure)
            found.setdefault(run.seed, []).append(value)
        return {
            seed: math.fsum(v for v in many if v is not None) / len(many)
            for seed, many in found.items()
            if None not in many
        }

    def lowest(self, measure: Measure) -> float:
        """Return the floor: the lowest value of any finished run, or 0 if that is lower."""
        seen = (measure(run) for run in self.runs if run.state == "done")
        return min([0.0, *(value for value in seen if value is not None)])


# --- what a run is measured by ----------------------------------------------------------------------------------------


def at_last_step(run: Run, metric: str) -> float | None:
    """Return a metric at the planned last step; None: the run did not get there, or it was not measured there."""
    found = [line[metric] for line in run.lines if metric in line and line["step"] == run.planned_steps]
    return found[-1] if found else None


def tail_mean(run: Run) -> float | None:
    """Return the mean training reward of the last tenth of the steps."""
    _, values = run.series(TRAINING)
    return float(values[-math.ceil(TAIL * len(values)) :].mean()) if len(values) else None


def area(run: Run) -> float | None:
    """Return the mean training reward of all steps: the area under its curve, a step being one wide."""
    _, values = run.series(TRAINING)
    return float(values.mean()) if len(values) else None


def at_budget(run: Run, metric: str, cost: str, budget: float) -> float | None:
    """Return a metric where the sum of `cost` reaches `budget`, linear between two measurements."""
    spent, costs, values = 0.0, [], []
    for line in run.lines:
        spent += line.get(cost, 0.0)
        if metric in line:
            costs.append(spent)
            values.append(line[metric])
    return float(np.interp(budget, costs, values)) if values else None


# --- reading ----------------------------------------------------------------------------------------------------------


def load(paths: Sequence[Path], metric: str = "", *, by: Sequence[str] = (), floor: bool = False) -> Study:
    """Read campaigns and run directories.

    metric: what to compare by; "": what the campaign declares, else eval/score
    by:     config keys that make conditions; empty: a campaign's own conditions, else every key that differs
    floor:  count failed runs with the lowest value

    Raises:
        ConfigError: neither a campaign nor a run, a key of `by` or a metric that does not exist, or nothing to compare.
    """
    manifests = {path: read_manifest(path) for path in paths if (path / "manifest.json").is_file()}
    runs: list[Run] = []
    for path in paths:
        runs += of_campaign(path, manifests[path]) if path in manifests else [single(path)]
    if metric:
        check_metric(metric, runs)
    manifest = next(iter(manifests.values()), {})
    declared = _table(manifest.get("campaign"))
    if len(paths) == 1 and manifests and not by:
        labels = [str(condition["label"]) for condition in manifest.get("conditions", [])]
        labels = labels or list(dict.fromkeys(run.label for run in runs))
        keys = sorted({text.partition("=")[0].lstrip("+") for run in runs for text in _overrides(manifest, run)})
    else:
        runs, keys = _by_config(runs, by)
        labels = list(dict.fromkeys(run.label for run in runs))
    if len(labels) < 2:
        raise ConfigError(
            f"there is one condition{f', {labels[0]}' if any(labels) else ''}: nothing to compare it with",
            "name more runs or campaigns, or what tells them apart: --by KEY",
        )
    baseline = str(declared.get("baseline") or "")
    baseline = baseline if baseline in labels else labels[0]
    return Study(
        name=str(manifest.get("name") or " and ".join(dict.fromkeys(path.name for path in paths))),
        metric=metric or str(declared.get("metric") or METRIC),
        baseline=baseline,
        min_effect=float(declared.get("min_effect") or 0.0),
        labels=[baseline, *(label for label in labels if label != baseline)],
        runs=runs,
        floor=floor,
        compared=keys,
        looks=[look for path in manifests for look in _looks(path, manifests[path])],
        manifest=manifest if len(paths) == 1 else {},
    )


def check_metric(metric: str, runs: Sequence[Run]) -> None:
    """Refuse a metric that no run has; while none is done, it may still come."""
    known = measured(runs)
    if metric not in known and any(run.state == "done" for run in runs):
        raise ConfigError(unknown_name(kind="metric of these runs", name=metric, known=known, key="--metric"))


def measured(runs: Iterable[Run]) -> list[str]:
    """Return the metrics that some run has."""
    return sorted({key for run in runs for line in run.lines for key in line} - {"step", "time"})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a campaign's manifest.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        values = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path / 'manifest.json'} cannot be read: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("runs"), list):
        raise ConfigError(f"{path / 'manifest.json'} is damaged: it lists no runs")
    return values


def of_campaign(path: Path, manifest: Mapping[str, Any]) -> list[Run]:
    """Read the runs of a campaign, as far as they are."""
    return [_read(path / str(entry["directory"]), entry) for entry in manifest["runs"]]


def single(path: Path) -> Run:
    """Read one run. Raises ConfigError when there is none."""
    if not (path / "run.json").is_file():
        raise ConfigError(f"{path} is neither a campaign nor a run", "it has no manifest.json and no run.json")
    return _read(path, {})


def _read(directory: Path, entry: Mapping[str, Any]) -> Run:
    """Read a run; `entry` is what the manifest says of it, which stays true where the run says nothing."""
    record = _json(directory / "run.json")
    nested = _toml(directory / "config.toml")
    training = _table(nested.get("training"))
    state = str(entry.get("state") or record.get("state") or "planned")
    if record.get("state") == "done":
        state = "done"
    return Run(
        name=str(entry.get("name") or directory.name),
        label=str(entry.get("label") or ""),
        seed=int(entry.get("seed", record.get("seed", training.get("seed", -1)))),
        directory=directory,
        state=state,
        exit_reason=str(entry.get("exit_reason") or record.get("exit_reason") or ""),
        started=record.get("started") or entry.get("started"),
        ended=record.get("ended") or entry.get("ended"),
        planned_steps=int(record.get("max_steps") or training.get("max_steps") or 0),
        config=dict(_flat(nested)),
        lines=_lines(directory / "metrics.jsonl"),
        record=record,
    )


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty where there is none, yet."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _lines(path: Path) -> list[dict[str, float]]:
    """Return the sound lines of metrics.jsonl; a torn one is none."""
    try:
        raw = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    found = []
    for text in raw:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append({k: v for k, v in line.items() if isinstance(v, int | float) and math.isfinite(v)})
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is compared of a config, by dotted key; a table of options is one value."""
    for name, value in table.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and not prefix:
            if name not in SECTIONS_NOT_COMPARED:
                yield from _flat(value, f"{name}.")
        elif dotted not in NOT_COMPARED:
            yield dotted, value


def _overrides(manifest: Mapping[str, Any], run: Run) -> list[str]:
    conditions = {condition["label"]: condition.get("overrides", []) for condition in manifest.get("conditions", [])}
    return conditions.get(run.label, [])


def _looks(path: Path, manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*manifest.get("looks", []), *read_looks(path)]


def read_looks(campaign: Path) -> list[dict[str, Any]]:
    """Return when somebody compared a campaign before its end: ``{"time", "done", "planned"}``."""
    try:
        raw = (campaign / "looks.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in raw if line.startswith("{") and line.endswith("}")]


# --- conditions by what differs ---------------------------------------------------------------------------------------


def _by_config(runs: Sequence[Run], by: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Label runs by the config keys that tell them apart; return them with these keys.

    Raises:
        ConfigError: a key of `by` that no config has.
    """
    known = {key for run in runs for key in run.config}
    if "training.seed" in by:
        raise ConfigError("--by training.seed: seeds repeat a condition, they are none", "another key, or no --by")
    wrong = [
        unknown_name(kind="key of these configs", name=key, known=sorted(known), key="--by")
        for key in by
        if key not in known
    ]
    if wrong:
        raise ConfigError([replace(problem, hint="") for problem in wrong])  # all keys are too many to list
    keys = list(by) or differing(runs)
    groups: dict[str, list[Run]] = {}
    for run, group in zip(runs, _groups(runs, keys), strict=True):
        groups.setdefault(group, []).append(run)
    named = {group: {run.label for run in members} for group, members in groups.items()}
    unique = len({frozenset(labels) for labels in named.values()}) == len(named)
    if not by and unique and all(len(labels) == 1 and "" not in labels for labels in named.values()):
        return list(runs), keys
    return [replace(run, label=group) for group, members in groups.items() for run in members], keys


def _groups(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Return what each run is grouped under: its values of `keys`.

    A run that is only planned has no config yet: it belongs to the runs of its label, of its own campaign first.
    """

    def of(run: Run) -> str:
        return ", ".join(f"{_short(key, keys)}={_shown(run.config.get(key))}" for key in keys)

    homes: dict[tuple[Path | None, str], str] = {}
    for run in runs:
        if run.config and run.label:
            homes.setdefault((run.directory.parent, run.label), of(run))
            homes.setdefault((None, run.label), of(run))
    return [
        of(run)
        if run.config or not run.label
        else homes.get((run.directory.parent, run.label)) or homes.get((None, run.label)) or run.label
        for run in runs
    ]


def differing(runs: Iterable[Run]) -> list[str]:
    """Return the config keys whose value is not the same in all runs."""
    seen: dict[str, set[str]] = {}
    configs = [run.config for run in runs if run.config]
    for key in dict.fromkeys(key for config in configs for key in config):
        seen[key] = {_shown(config.get(key)) for config in configs}
    return [key for key, values in seen.items() if len(values) > 1]


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a key, where that is enough to know it."""
    name = key.rpartition(".")[2]
    return name if sum(k.rpartition(".")[2] == name for k in keys) == 1 else key


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
