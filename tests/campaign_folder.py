"""Campaign folders as a campaign leaves them, without running one: for everything that looks at campaigns."""

import json
import os
import time
from pathlib import Path

from retrain.campaign.manifest import Manifest, RunEntry
from retrain.store import RunRecord, process_start

GONE = {"pid": 2**22 + 7, "process_start": 1.0}  # no process has such a number
ENDED = ("done", "failed", "interrupted")


def make_run(folder, *, state="done", steps=20, max_steps=40, seconds=10.0, score=0.5, now=None, **changes):
    """A run whose reward rises from 0 to 1 over its length; a step takes `seconds`."""
    folder, now = Path(folder), time.time() if now is None else now
    folder.mkdir(parents=True, exist_ok=True)
    started = now - 30 - seconds * steps
    ended = now - 5 if state in ENDED else None
    values = {"name": folder.name, "seed": 1, "steps_done": steps, "max_steps": max_steps, "started": started}
    RunRecord(**values | {"state": state, "ended": ended} | changes).write(folder)
    lines = [
        {"step": s, "time": now - 5 - seconds * (steps - s), "reward/mean": s / max_steps} for s in range(1, steps + 1)
    ]
    if lines and state == "done":
        lines[-1]["eval/score"] = score
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if state == "running":
        heart = {"phase": "train", "since": now - 3, "step": steps, "beat": now - 1, "stalled": False, "stacks": ""}
        (folder / "heartbeat.json").write_text(json.dumps(heart))
    return folder


def make_campaign(folder, states, *, seeds=(42, 101), state="running", now=None, metric="eval/score", **changes):
    """A campaign that this process conducts. `states`: condition → the state of each seed's run."""
    folder, now = Path(folder), time.time() if now is None else now
    folder.mkdir(parents=True)
    runs = []
    for label, row in states.items():
        for seed, found in zip(seeds, row, strict=True):
            name = f"{label}_s{seed}"
            entry = {"name": name, "label": label, "seed": seed, "overrides": [], "directory": f"runs/{name}"}
            runs.append(RunEntry(**entry, key=name, state=found, started=now - 300 if found != "planned" else None))
            if found != "planned":
                steps = 40 if found == "done" else 20
                make_run(folder / "runs" / name, state=found, steps=steps, now=now, seed=seed)
    values = {
        "name": folder.parent.name, "source": "abl.toml", "kind": "campaign", "runs": runs, "state": state,
        "campaign": {"max_workers": 2, "metric": metric, "baseline": "", "max_steps": 40, "seeds": list(seeds)},
        "conditions": [{"label": label, "overrides": []} for label in states], "created": now - 400,
        "tracking_uri": "none", "experiment": "retrain", "places": [], "cwd": str(Path.cwd()),
        "ended": None if state == "running" else now - 60,
        "pid": os.getpid(), "process_start": process_start(os.getpid()),
    }  # fmt: skip
    Manifest(**values | changes).write(folder)
    return folder
