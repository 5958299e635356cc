"""How far each tracker is: `tracking/<sink>.json` of a run, written by the follower only, and what is still missing.

Each run of a campaign has its own, so that it can be sent alone; that of the campaign is its parent run's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError
from retrain.store import write_atomically
from retrain.tracking.folder import BEFORE_ALL, CampaignFolder, Line, RunFolder
from retrain.tracking.manifest import is_campaign
from retrain.tracking.uri import OFF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Sent:
    """What one tracker has received of one run.

    `sending` is written before anything is sent. A follower that dies in between leaves it behind, and the next one
    sends the very same points again, which a tracker stores once, whatever a resumed run has measured since.
    """

    path: Path
    step: int = BEFORE_ALL  # the last step sent: this one and all before it are never sent again
    sending: list[Line] = field(default_factory=list)  # lines that may have arrived, or may not
    final_step: int = BEFORE_ALL  # the step whose final/* values were sent
    run_id: str = ""
    token: str = ""  # names the run before the tracker has given it an id
    experiment_id: str = ""
    tracking_uri: str = ""  # password masked
    finished: str = ""  # the `Ending.key` that the tracker knows of; empty while it shows the run as running
    problem: str = ""  # why the last attempt failed
    note: str = ""  # the note as we wrote it, to leave alone one that a person has changed
    uploaded: dict[str, str] = field(default_factory=dict)  # file → fingerprint of what was uploaded

    @classmethod
    def load(cls, directory: Path, sink: str) -> Sent:
        """Read the watermark of a sink; a missing file is a fresh one."""
        path = directory / "tracking" / f"{sink}.json"
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path)
        known = {one.name for one in fields(cls)} - {"path"}
        return cls(path, **{name: value for name, value in values.items() if name in known})

    def reload(self) -> None:
        """Take over what another process has written since."""
        self.__dict__.update(self.load(self.path.parent.parent, self.path.stem).__dict__)

    def save(self) -> None:
        values = asdict(self)
        del values["path"]
        write_atomically(self.path, json.dumps({"format": 1, **values}, indent=2, ensure_ascii=False) + "\n")

    def forget(self) -> None:
        """Start over: the tracker has no such run, or another one is meant now."""
        self.__init__(self.path)


@dataclass(frozen=True, kw_only=True)
class Behind:
    """A tracker that does not have everything yet."""

    sink: str
    sent: int  # last step it has; -1: nothing, for an evaluation before the first step is step 0
    steps: int  # last step there is
    problem: str


def pending(directory: Path) -> list[Behind]:
    """Which trackers miss something: steps, or how it ended. Empty: everything is sent.

    Of a campaign, one item for each tracker: steps are summed over the runs, and there may be none missing where only
    an ending is.
    """
    return _pending_of_campaign(directory) if is_campaign(directory) else _pending_of_run(RunFolder(directory))


def _pending_of_run(folder: RunFolder) -> list[Behind]:
    ending, lines = folder.ending(), folder.lines()
    last = int(lines[-1]["step"]) if lines else BEFORE_ALL
    behind = []
    for name in folder.sinks():
        sent = Sent.load(folder.dir, name)
        if sent.step < last or sent.finished != (ending.key if ending else ""):
            behind.append(Behind(sink=name, sent=sent.step, steps=last, problem=sent.problem))
    return behind


def _pending_of_campaign(root: Path) -> list[Behind]:
    campaign = CampaignFolder(root)
    manifest, ending, behind = campaign.manifest(), campaign.ending(), list[Behind]()
    if manifest.tracking_uri != OFF:
        sent = Sent.load(campaign.dir, "mlflow")
        if not sent.run_id or sent.finished != (ending.key if ending else ""):
            behind.append(Behind(sink="mlflow", sent=0, steps=0, problem=sent.problem))
    for entry in manifest.runs:
        folder = RunFolder(campaign.dir / entry.directory)
        if folder.exists():
            try:
                behind += _pending_of_run(folder)
            except ConfigError as error:  # a damaged file of one run says nothing about the others
                behind.append(Behind(sink="mlflow", sent=0, steps=0, problem=str(error)))
    return [_summed([one for one in behind if one.sink == name]) for name in dict.fromkeys(one.sink for one in behind)]


def _summed(behind: list[Behind]) -> Behind:
    return Behind(
        sink=behind[0].sink,
        sent=sum(max(0, one.sent) for one in behind),
        steps=sum(max(0, one.steps) for one in behind),
        problem=next((one.problem for one in behind if one.problem), ""),
    )


@contextlib.contextmanager
def claim(run_dir: Path, wait_seconds: float) -> Iterator[bool]:
    """Be the only process that sends this run, or leads a campaign's sending.

    Yields False when another one still is after `wait_seconds`.
    """
    folder = run_dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with (folder / ".lock").open("w") as handle:
        while not (held := _locked(handle)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield held


def is_claimed(run_dir: Path) -> bool:
    """Whether a follower is at work on this run."""
    lock = run_dir / "tracking" / ".lock"
    if not lock.exists():
        return False
    with lock.open() as handle:
        return not _locked(handle)


def _locked(handle: Any) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
