"""What a tracker reads of a campaign: its `manifest.json`, written by the process that conducts it.

    CAMPAIGN/manifest.json    CAMPAIGN/runs/<label>_s<seed>/    CAMPAIGN/tracking/

A run that lies in a campaign and is listed there is tracked as one of its runs, whoever sends it.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError
from retrain.store import process_start

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
OVER = ("done", "failed", "interrupted", "skipped")  # states of a run that its supervisor has left

# Okabe and Ito's colours, which people with any colour vision tell apart, without yellow: too light for a line.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#555555")


def colour(index: int) -> str:
    """Colour of a condition, by its place in the manifest; beyond the palette, darker and darker.

    >>> colour(0), colour(7)
    ('#0072b2', '#005079')
    """
    base, darker = COLOURS[index % len(COLOURS)], 0.7 ** (index // len(COLOURS))
    return "#" + "".join(f"{round(int(base[at : at + 2], 16) * darker):02x}" for at in (1, 3, 5))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run of the campaign, as the manifest has it. Times are unix seconds."""

    name: str
    label: str  # its condition
    seed: int
    directory: str  # from the campaign's root
    state: str = "planned"
    started: float | None = None
    ended: float | None = None
    exit_reason: str = ""
    attempts: int = 0

    @property
    def is_over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The plan of a campaign, and what became of it."""

    root: Path
    name: str
    source: str
    state: str
    created: float
    ended: float | None
    host: str
    pid: int
    process_start: float
    tracking_uri: str
    experiment: str
    labels: tuple[str, ...]
    runs: tuple[Entry, ...]

    @property
    def is_abandoned(self) -> bool:
        """Whether the process that conducts it is gone without a word; one on another machine counts as alive."""
        if self.state != "running" or self.host != socket.gethostname():
            return False
        return process_start(self.pid) != self.process_start

    @property
    def is_over(self) -> bool:
        return self.state != "running" or self.is_abandoned

    def colour(self, label: str) -> str:
        return colour(self.labels.index(label) if label in self.labels else len(self.labels))


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a run in its campaign."""

    campaign: Manifest
    entry: Entry

    @property
    def colour(self) -> str:
        return self.campaign.colour(self.entry.label)


class ManifestFile:
    """A campaign's manifest, read again only when it has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.path = self.root / "manifest.json"
        self._manifest: Manifest | None = None
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def around(cls, run_dir: Path) -> ManifestFile | None:
        """The manifest of the campaign that a run directory lies in; None: it lies in none."""
        runs = run_dir.resolve().parent
        return cls(runs.parent) if runs.name == "runs" and is_campaign(runs.parent) else None

    def read(self) -> Manifest:
        """Return the manifest: the same object until the file has changed.

        Raises:
            ConfigError: there is none, it is damaged, or a newer version wrote it.
        """
        try:
            status = self.path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._manifest is None or seen != self._seen:
                self._manifest = _parsed(self.root, json.loads(self.path.read_text(encoding="utf-8")))
                self._seen = seen
        except FileNotFoundError:
            raise ConfigError(f"{self.root} is not a campaign: it has no manifest.json") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} cannot be read: {type(error).__name__}: {error}") from error
        return self._manifest

    def place(self, run_dir: Path) -> Place | None:
        """The place of a run directory in this campaign; None: it is not listed."""
        manifest, wanted = self.read(), run_dir.resolve()
        for entry in manifest.runs:
            if self.root / entry.directory == wanted:
                return Place(campaign=manifest, entry=entry)
        return None


def is_campaign(directory: Path) -> bool:
    """Whether a directory is the root of a campaign."""
    return (directory / "manifest.json").is_file()


def _parsed(root: Path, values: dict[str, Any]) -> Manifest:
    if values["format"] != FORMAT:
        raise ConfigError(
            f"{root / 'manifest.json'} has format {values['format']}, this version reads {FORMAT}; "
            "use the retrain that wrote it"
        )
    return Manifest(
        root=root,
        name=values["name"],
        source=values.get("source") or "",
        state=values["state"],
        created=values["created"],
        ended=values.get("ended"),
        host=values["host"],
        pid=values["pid"],
        process_start=values["process_start"],
        tracking_uri=values["tracking_uri"],
        experiment=values["experiment"],
        labels=tuple(condition["label"] for condition in values["conditions"]),
        runs=tuple(_entry(one) for one in values["runs"]),
    )


def _entry(values: dict[str, Any]) -> Entry:
    known = {one.name for one in fields(Entry)}
    return Entry(**{name: value for name, value in values.items() if name in known})
