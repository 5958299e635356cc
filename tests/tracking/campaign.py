"""A campaign's directory as the process that conducts it leaves it, at any moment of its life."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from retrain.store import process_start, write_atomically
from tests.tracking.training import START, Training

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Campaign:
    """Plays the conductor: keeps the manifest; its runs are `Training`s, made when they begin."""

    def __init__(self, directory: Path, uri: str, labels: Sequence[str], seeds: Sequence[int], **logging: Any) -> None:
        self.dir, self.uri, self.logging = directory, uri, logging
        directory.mkdir(parents=True)
        (directory / "campaign.toml").write_text('[campaign]\nmetric = "reward/correct_rate"\n', encoding="utf-8")
        self.values: dict[str, Any] = {
            "format": 1,
            "name": directory.name,
            "source": "/home/me/abl.toml",
            "kind": "campaign",
            "created": START,
            "ended": None,
            "state": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "command": ["retrain", "abl.toml"],
            "campaign": {"metric": "reward/correct_rate"},
            "tracking_uri": uri,
            "experiment": logging.get("experiment", "retrain"),
            "conditions": [],
            "runs": [],
            "looks": [],
        }
        self.extend(labels, seeds)

    def extend(self, labels: Sequence[str], seeds: Sequence[int]) -> Campaign:
        """Add conditions × seeds to the plan."""
        for label in labels:
            if label not in [one["label"] for one in self.values["conditions"]]:
                self.values["conditions"].append({"label": label, "overrides": []})
            for seed in seeds:
                self.values["runs"].append(
                    {
                        "name": f"{label}_s{seed}",
                        "label": label,
                        "seed": seed,
                        "overrides": [],
                        "directory": f"runs/{label}_s{seed}",
                        "key": f"{label}/{seed}",
                        "state": "planned",
                        "started": None,
                        "ended": None,
                        "exit_reason": "",
                        "attempts": 0,
                    }
                )
        return self.write()

    def begin(self, name: str) -> Training:
        """A run has started: its directory is there, and the manifest says so."""
        training = Training(self.dir / "runs" / name, self.uri, **self.logging)
        training.record = replace(training.record, seed=self.entry(name)["seed"])
        training.update()
        self.mark(name, state="running", started=START, attempts=1)
        return training

    def mark(self, name: str, **changes: Any) -> Campaign:
        self.entry(name).update(changes)
        return self.write()

    def entry(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.values["runs"] if entry["name"] == name)

    def end(self, state: str = "done") -> Campaign:
        self.values.update(state=state, ended=START + 9000)
        return self.write()

    def resume(self) -> Campaign:
        self.values.update(state="running", ended=None)
        return self.write()

    def write(self) -> Campaign:
        write_atomically(self.dir / "manifest.json", json.dumps(self.values))
        return self

    def report(self, headline: str) -> Campaign:
        """Write what the report writes."""
        (self.dir / "results.json").write_text(json.dumps({"format": 1, "headline": headline}), encoding="utf-8")
        (self.dir / "report.html").write_text(f"<h1>{headline}</h1>", encoding="utf-8")
        return self
