"""What a follower reads: a run directory, from outside and at any moment of the run's life."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS
from retrain.store import RunRecord, read_metrics

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

        A run on another machine counts as alive until its `run.json` says otherwise.
        """
        record = self.record()
        if record.state != "running":
            ended = record.ended or record.started
            return Ending(state=record.state, reason=record.exit_reason, time=ended, key=f"{record.state}@{ended}")
        if (
            record.is_alive() is not False or self.record().state != "running"
        ):  # it may have ended between the two looks
            return None
        lines = self.lines()
        last = lines[-1]["time"] if lines else record.started
        reason = f"process {record.pid} is gone"
        return Ending(state="killed", reason=reason, time=last, key=f"killed@{record.pid}:{record.process_start}")

    def sinks(self) -> list[str]:
        """Names of the trackers that this run is sent to."""
        wanted = {"mlflow": self.record().tracking_uri != "none", "wandb": bool(self.setting("logging.wandb_project"))}
        return [name for name, on in wanted.items() if on]


def _filled(text: str) -> str:
    """Replace ${oc.env:NAME} and ${oc.env:NAME,default}; a variable that is not set and has no default becomes ""."""
    return _ENV.sub(lambda found: os.environ.get(found[1], found[2] or ""), text).replace("\\${", "${")
