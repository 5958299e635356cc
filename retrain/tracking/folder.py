"""What a follower reads: a run directory or a campaign's, from outside and at any moment of its life."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS
from retrain.store import RunRecord, read_metrics
from retrain.tracking.manifest import Manifest, ManifestFile, Place

if TYPE_CHECKING:
    from pathlib import Path

Line = dict[str, float]
"""One line of metrics.jsonl: "step", "time" (unix seconds) and the metrics of spec'd names."""

BEFORE_ALL = -1  # no step: a line of step 0 is the evaluation before the first one

_ENV = re.compile(r"(?<!\\)\$\{oc\.env:([^,}]+)(?:,([^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended. `key` is the same for the same ending and differs after a resume."""

    state: str  # "done", "failed", "interrupted", or "killed": the process is gone and could not write
    reason: str
    time: float  # unix seconds
    key: str


class RunFolder:
    """A run directory, read only."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory.resolve()
        self.tracking = self.dir / "tracking"
        self._lines: list[Line] = []
        self._seen: tuple[int, int, int] | None = None
        self._campaign = ManifestFile.around(self.dir)

    def place(self) -> Place | None:
        """The run's place in a campaign; None: it is a run of its own."""
        return self._campaign.place(self.dir) if self._campaign is not None else None

    def exists(self) -> bool:
        """False once somebody has deleted the run."""
        return (self.dir / "run.json").exists()

    def record(self) -> RunRecord:
        """Read `run.json`.

        Raises:
            ConfigError: the directory holds no run.
        """
        return RunRecord.read(self.dir)

    def config(self) -> dict[str, Any]:
        """The sections of `config.toml` as they are written."""
        path = self.dir / "config.toml"
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def setting(self, dotted: str) -> Any:
        """One value of the config, the schema's default where the file is silent; ${oc.env:NAME} is filled in."""
        section, _, name = dotted.partition(".")
        value = self.config().get(section, {}).get(name, KEYS[dotted].default)
        return _filled(value) if isinstance(value, str) else value

    def lines(self, after: int = BEFORE_ALL) -> list[Line]:
        """Whole lines of metrics.jsonl of the steps after `after`, in order."""
        try:
            status = (self.dir / "metrics.jsonl").stat()
        except FileNotFoundError:
            return []
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            self._lines, self._seen = read_metrics(self.dir), seen
        return [line for line in self._lines if line["step"] > after]

    def ending(self) -> Ending | None:
        """How the run ended; None while it may still write.

        A run on another machine counts as alive until its `run.json` says otherwise, or its campaign does.
        """
        record = self.record()
        if record.state != "running":
            ended = record.ended or record.started
            return Ending(state=record.state, reason=record.exit_reason, time=ended, key=f"{record.state}@{ended}")
        alive = record.is_alive()
        if alive is None:
            return self._ending_elsewhere(record)
        if alive or self.record().state != "running":  # it may have ended between the two looks
            return None
        return self._killed(record, f"process {record.pid} is gone")

    def _ending_elsewhere(self, record: RunRecord) -> Ending | None:
        """How a run on another machine ended: its supervisor knows, or there is no supervisor any more."""
        place = self.place()
        if place is None or not (place.entry.is_over or place.campaign.is_over):
            return None
        if not place.entry.is_over:
            return self._killed(record, "its campaign ended without it")
        entry = place.entry
        ended = entry.ended or record.started
        return Ending(state=entry.state, reason=entry.exit_reason, time=ended, key=f"{entry.state}@{ended}")

    def _killed(self, record: RunRecord, reason: str) -> Ending:
        lines = self.lines()
        last = lines[-1]["time"] if lines else record.started
        return Ending(state="killed", reason=reason, time=last, key=f"killed@{record.pid}:{record.process_start}")

    def sinks(self) -> list[str]:
        """Names of the trackers that this run is sent to."""
        wanted = {"mlflow": self.record().tracking_uri != "none", "wandb": bool(self.setting("logging.wandb_project"))}
        return [name for name, on in wanted.items() if on]


class CampaignFolder:
    """A campaign's directory, read only. It measures nothing itself: its runs do."""

    def __init__(self, directory: Path) -> None:
        self.file = ManifestFile(directory)
        self.dir = self.file.root
        self.tracking = self.dir / "tracking"
        self._results: tuple[tuple[int, int], str] = ((0, 0), "")

    def exists(self) -> bool:
        """False once somebody has deleted the campaign."""
        return self.file.path.exists()

    def manifest(self) -> Manifest:
        """Read `manifest.json`.

        Raises:
            ConfigError: the directory holds no campaign.
        """
        return self.file.read()

    def lines(self, after: int = BEFORE_ALL) -> list[Line]:  # noqa: ARG002  a run's folder is asked the same
        """No lines: a campaign's own run has no metrics."""
        return []

    def ending(self) -> Ending | None:
        """How the campaign ended; None while it goes on. Another ending once its results have been written anew."""
        manifest = self.manifest()
        if not manifest.is_over:
            return None
        state = "killed" if manifest.is_abandoned else manifest.state
        reason = f"process {manifest.pid} is gone" if state == "killed" else ""
        ended = manifest.ended or max((run.ended or 0.0 for run in manifest.runs), default=0.0) or manifest.created
        return Ending(state=state, reason=reason, time=ended, key=f"{state}@{ended}#{self._digest()}")

    def _digest(self) -> str:
        """Fingerprint of `results.json`, read again only when the file has changed; empty: there is none."""
        path = self.dir / "results.json"
        try:
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns)
            if seen != self._results[0]:
                self._results = (seen, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        except FileNotFoundError:
            return ""
        return self._results[1]


def _filled(text: str) -> str:
    """Replace ${oc.env:NAME} and ${oc.env:NAME,default}; a variable that is not set and has no default becomes ""."""
    return _ENV.sub(lambda found: os.environ.get(found[1], found[2] or ""), text).replace("\\${", "${")
