"""`manifest.json`: what a campaign is to run, and what became of each run. Its parent process alone writes it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from retrain import references
from retrain.errors import ConfigError
from retrain.store import process_start, write_atomically

FORMAT = 1
FILE = "manifest.json"


def is_campaign(directory: Path) -> bool:
    """Tell whether a directory is a campaign's."""
    return (directory / FILE).is_file()


def newest_unfinished(name: str, source: Path | None, log_dir: str = "") -> Path | None:
    """Return the newest campaign of a TOML that has ended, or was killed, before all of its runs were done."""
    wanted = Path(log_dir).expanduser() if log_dir else references.OUTPUTS / name
    places = [*wanted.parent.glob(f"{wanted.name}*")] if log_dir else references.entries_under(wanted)
    for place in sorted(filter(is_campaign, places), key=references.started, reverse=True):
        try:
            manifest = Manifest.read(place)
        except ConfigError:
            continue
        ours = source is None or manifest.source == str(source)
        if ours and manifest.state != "done" and not (manifest.state == "running" and manifest.is_alive() is not False):
            return place
    return None


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run of a campaign. Times are unix seconds; None: not yet."""

    name: str
    label: str
    seed: int
    overrides: list[str]
    directory: str  # below the campaign's
    key: str  # of its config without places: two runs with one key are the same run
    state: str = "planned"  # "planned", "running", "done", "failed", "interrupted"
    started: float | None = None
    ended: float | None = None
    exit_reason: str = ""
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A campaign, whole."""

    name: str
    source: str  # the TOML, absolute; "" without one
    kind: str  # "campaign", or "multirun"
    campaign: dict[str, Any]  # the keys of [campaign] but its conditions
    conditions: list[dict[str, Any]]  # {"label", "overrides"}, in order
    runs: list[RunEntry]
    tracking_uri: str
    experiment: str
    places: list[str]  # where plugins are looked for
    cwd: str
    created: float = field(default_factory=time.time)
    ended: float | None = None
    opened: float = field(default_factory=time.time)  # when the process that conducts it, or did last, took it over
    active_seconds: float = 0.0  # that earlier processes have conducted it
    state: str = "running"  # "running", "done", "failed" (some runs did), "interrupted"
    exit_reason: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process_start: float = field(default_factory=lambda: process_start(os.getpid()) or 0.0)
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    looks: list[dict[str, Any]] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read a campaign's manifest.

        Raises:
            ConfigError: there is none, it is damaged, or another version wrote it.
        """
        path = directory / FILE
        try:
            values = json.loads(path.read_bytes())
            if values["format"] != FORMAT:
                raise ConfigError(
                    f"{path} has format {values['format']}, this version reads {FORMAT}; use the retrain that wrote it"
                )
            return cls(**{**values, "runs": [RunEntry(**entry) for entry in values["runs"]]})
        except FileNotFoundError:
            raise ConfigError(f"{directory} is not a campaign: it has no {FILE}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = f"its runs may be whole all the same: retrain status {directory / 'runs'}"
            raise ConfigError(f"{path} is damaged: {error}", hint) from error

    def write(self, directory: Path) -> None:
        write_atomically(directory / FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @property
    def is_search(self) -> bool:
        """Whether its conditions are trials, made while it goes on."""
        return self.campaign.get("sweeper") == "optuna"

    @property
    def unasked(self) -> int:
        """How many trials are still to be made; 0 where nothing is searched."""
        return max(0, self.campaign["sweeper_options"]["n_trials"] - len(self.conditions)) if self.is_search else 0

    def with_run(self, name: str, **changes: Any) -> Manifest:
        """Return it with one run changed."""
        return replace(self, runs=[replace(run, **changes) if run.name == name else run for run in self.runs])

    def taken_over(self) -> Manifest:
        """Return it as this process's: running, from now on."""
        start = process_start(os.getpid()) or 0.0
        ours = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": start}
        times = {"opened": time.time(), "active_seconds": self.conducted(), "ended": None}
        return replace(self, state="running", exit_reason="", **times, **ours)

    def conducted(self) -> float:
        """Return the seconds that processes have conducted it; of one that was killed, up to the last end of a run."""
        last = max([self.opened, *(run.ended for run in self.runs if run.ended)]) if self.ended is None else self.ended
        return self.active_seconds + max(0.0, last - self.opened)

    def is_alive(self) -> bool | None:
        """Whether the process that conducts it still runs; None when it is on another machine."""
        if self.host != socket.gethostname():
            return None
        return process_start(self.pid) == self.process_start
