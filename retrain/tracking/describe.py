"""What a tracker shows of a run beside its curves: parameters, tags, the note, final values. Pure functions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from retrain.store import RunRecord
    from retrain.tracking.folder import Ending, Line, RunFolder

MAX_VALUE = 6000  # characters of a parameter that MLflow keeps
CHANGING = ("retrain.problems", "retrain.best")  # tags that may have nothing to say any more
_SECRET = re.compile(r"(^|_)(api_?key|token|secret|password|credentials?)$", re.IGNORECASE)
_LEFT_OUT = ("logging", "resume")  # where a run writes, not what it computes
_IN_NO_NAME = re.compile(r"[^\w./ :-]")


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a config with dots; secrets, paths and everything about logging are left out.

    >>> params({"training": {"lr": 4e-05}, "logging": {"run_name": "a"}})
    {'training.lr': '4e-05'}
    """
    kept = {}
    for dotted, value in _leaves(config):
        leaf = dotted.rpartition(".")[2]
        secret = _SECRET.search(leaf) or (dotted in KEYS and KEYS[dotted].secret)
        is_path = leaf == "path" or leaf.endswith(("_path", "_dir"))
        if not secret and not is_path and dotted.partition(".")[0] not in _LEFT_OUT:
            kept[metric_name(dotted)] = _text(value)[:MAX_VALUE]
    return kept


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def metric_name(key: str) -> str:
    """Map a key to MLflow's alphabet: letters, digits and ``_ . / : -``, a plain relative path, at most 250 long.

    >>> metric_name("eval/pass@8"), metric_name("/reward//exact match (strict)")
    ('eval/pass_at_8', 'reward/exact match _strict_')
    """
    name = _IN_NO_NAME.sub("_", key.replace("@", "_at_"))
    parts = [part for part in name.split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)[:250] or "_"


def values(line: Line) -> dict[str, float]:
    """The metrics of a line that a tracker can draw: finite numbers, under names that it accepts."""
    return {
        metric_name(key): float(value)
        for key, value in line.items()
        if key not in {"step", "time"} and isinstance(value, int | float) and math.isfinite(value)
    }


def condition(folder: RunFolder) -> str:
    """What runs are grouped by: the label in the campaign, else ``advantage_mode+transform_mode``."""
    if place := folder.place():
        return place.entry.label
    return f"{folder.setting('algorithm.advantage_mode')}+{folder.setting('algorithm.transform_mode')}"


def tags(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """The tags of a run; the user's come first, so that they cannot hide ours."""
    found = {str(name): _text(value) for name, value in folder.setting("logging.tags").items()}
    found |= {
        "retrain.kind": "run",
        "retrain.dir": str(folder.dir),
        "condition": condition(folder),
        "seed": str(record.seed),
        "mlflow.source.name": record.source or "retrain",
        "mlflow.source.type": "LOCAL",
    }
    if place := folder.place():
        found |= {"campaign": place.campaign.name, "mlflow.runColor": place.colour}
    if record.git:
        found["mlflow.source.git.commit"] = str(record.git["commit"])
    if record.artifact:
        found["retrain.adapter"] = record.artifact
    if rules := open_problems(record):
        found["retrain.problems"] = ", ".join(rules)
    if record.best:
        found["retrain.best"] = f"step {record.best['step']:.0f}, {record.best['score']:.3g}"
    return found


def open_problems(record: RunRecord) -> list[str]:
    """Names of the health rules that are broken now, each once, in the order in which they broke."""
    return list(dict.fromkeys(problem["rule"] for problem in record.problems if problem["until"] is None))


def tail_mean(lines: Sequence[Line], key: str, *, first: bool = False) -> float | None:
    """Mean of `key` over the last (or first) tenth of the steps that have it, at least one; None when none has."""
    found = [line[key] for line in lines if math.isfinite(line.get(key, math.nan))]
    if not found:
        return None
    count = max(1, len(found) // 10)
    part = found[:count] if first else found[-count:]
    return sum(part) / len(part)


def final_metrics(lines: Sequence[Line]) -> dict[str, float]:
    """One number of a run for the table, which shows the last point only, and a single step is mostly noise.

    ``final/correct_rate`` and ``final/reward`` are means over the last tenth; ``final/held_out`` is the last held-out
    score, ``final/test`` the score on the source's test split.
    """
    found = {
        "final/correct_rate": tail_mean(lines, "reward/correct_rate"),
        "final/reward": tail_mean(lines, "reward/mean"),
        "final/held_out": _last(lines, "eval/score"),
        "final/test": _last(lines, "test/score"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _last(lines: Sequence[Line], key: str) -> float | None:
    return next((line[key] for line in reversed(lines) if math.isfinite(line.get(key, math.nan))), None)


def note(folder: RunFolder, record: RunRecord, lines: Sequence[Line], ending: Ending | None) -> str:
    """Markdown for the top of the run's page: only about four lines show, so the verdict comes first."""
    head = f"**{condition(folder)}**, seed {record.seed}"
    steps = max(0, int(lines[-1]["step"])) if lines else 0
    learned = _learned(lines)
    if ending is None:
        verdict = f"training, {record.max_steps} steps planned."
    elif ending.state == "done":
        verdict = f"{learned} over {steps} steps."
    else:
        reason = f": {ending.reason.splitlines()[0]}" if ending.reason else ""
        verdict = f"{ending.state} at step {steps} of {record.max_steps}{reason}. {learned[0].upper()}{learned[1:]}."
    if rules := open_problems(record):
        verdict += f" **Problems: {', '.join(rules)}.**"
    place = folder.place()
    again = f"again: `retrain {folder.dir}/config.toml`"
    if ending is not None and ending.state != "done":
        again = f"go on: `retrain resume {place.campaign.root if place is not None else folder.dir}`"
    shown = "completions: Artifacts → `completions.json` · " if ending is not None else ""
    if place is not None:
        shown += f"one of {len(place.campaign.runs)} runs of {place.campaign.name} (its page: *Parent run*) · "
    return f"{head}: {verdict}\n\n{shown}on disk: `{folder.dir}` · {again}"


def _learned(lines: Sequence[Line]) -> str:
    before, after = tail_mean(lines, "reward/correct_rate", first=True), tail_mean(lines, "reward/correct_rate")
    learned = "nothing measured" if before is None or after is None else f"correct rate {before:.2f} → {after:.2f}"
    held = [line["eval/score"] for line in lines if math.isfinite(line.get("eval/score", math.nan))]
    return f"{learned}, held out {held[0]:.2f} → {held[-1]:.2f}" if len(held) > 1 else learned
