"""Campaigns and runs as directories, without training anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tomli_w

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STEPS = 20


def write_run(
    directory: Path,
    score: float | None,
    *,
    seed: int,
    state: str = "done",
    steps: int = STEPS,
    planned: int = STEPS,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    tokens: float = 100.0,
    reward: float | None = None,
    **record: Any,
) -> Path:
    """Write a run that ends at `score` (None: it was not evaluated) after a straight rise of its reward to `reward`."""
    directory.mkdir(parents=True, exist_ok=True)
    sections: dict[str, dict[str, Any]] = {
        "algorithm": {"advantage_mode": "grpo", "transform_mode": "none"},
        "training": {"seed": seed, "max_steps": planned, "lr": 1e-5},
        "logging": {"log_dir": str(directory)},
    }
    for section, keys in (config or {}).items():
        sections.setdefault(section, {}).update(keys)
    (directory / "config.toml").write_text(tomli_w.dumps(sections), encoding="utf-8")
    if state == "planned":
        return directory
    values = {"format": 1, "name": directory.name, "state": state, "seed": seed, "max_steps": planned, "host": "h"}
    values |= {"steps_done": steps, "started": 1.0, "ended": 2.0, "pid": 1, "exit_reason": "", **record}
    (directory / "run.json").write_text(json.dumps(values), encoding="utf-8")
    final = (score or 0.0) if reward is None else reward
    lines = [{"step": 0, "time": 1.0, "eval/score": 0.0}]
    for step in range(1, steps + 1):
        line = {"step": step, "time": 1.0 + step, "reward/mean": final * step / planned, "entropy/mean": 1.0 / step}
        line |= {"tokens/generated": tokens, "time/total": 2.0, "completion/length_mean": 8.0}
        if score is not None and step % (planned // 2) == 0:
            line["eval/score"] = score * step / planned
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")
    return directory


def write_campaign(
    root: Path,
    scores: Mapping[str, Mapping[int, float | str | None]],
    *,
    overrides: Mapping[str, Sequence[str]] | None = None,
    steps: int = STEPS,
    **campaign: Any,
) -> Path:
    """Write a campaign: condition → seed → score of a run that is done, or the state of one that is not."""
    names = {label: f"algorithm.advantage_mode=mode{i}" for i, label in enumerate(scores)}
    runs = []
    for i, (label, by_seed) in enumerate(scores.items()):
        for seed, score in by_seed.items():
            state = score if isinstance(score, str) else "done"
            value = None if isinstance(score, str) else score
            name = f"{label}_s{seed}"
            if state != "planned":
                config = {"algorithm": {"advantage_mode": f"mode{i}"}}
                done = steps if state == "done" else steps // 2
                reason = "boom <b>" if state == "failed" else ""
                write_run(
                    root / "runs" / name, value, seed=seed, state=state, steps=done, planned=steps, config=config,
                    exit_reason=reason,
                )  # fmt: skip
            runs.append({
                "name": name, "label": label, "seed": seed, "overrides": [], "directory": f"runs/{name}", "key": name,
                "state": state, "started": None, "ended": None, "exit_reason": "", "attempts": 1,
            })  # fmt: skip
    manifest = {
        "format": 1, "name": root.name, "source": str(root / "abl.toml"), "kind": "campaign", "created": 1.0,
        "ended": None, "state": "running", "host": "h", "pid": 1, "process_start": 1.0,
        "command": ["retrain", "abl.toml"], "campaign": {"metric": "eval/score", "min_effect": 0.0, **campaign},
        "tracking_uri": "none", "experiment": "retrain",
        "conditions": [{"label": l, "overrides": list((overrides or {}).get(l, [names[l]]))} for l in scores],
        "runs": runs, "looks": [],
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return root


def many(conditions: int, num_seeds: int, *, seed: int = 0, gain: float = 0.05) -> dict[str, dict[int, float]]:
    """Return scores: condition i gains i * gain over the first, with noise of 0.02."""
    import numpy as np

    rng = np.random.default_rng(seed)
    names = ("grpo+none", "maxrl+none", "maxrl+gtpo", "maxrl+gtpo_hicra", "maxrl+gtpo_sepa", "rloo+none", "a<b>&c")
    return {
        names[i]: {s: float(0.5 + i * gain + 0.02 * rng.standard_normal()) for s in range(1, num_seeds + 1)}
        for i in range(conditions)
    }
