"""MLflow: the campaign's own run, parent of its runs. It has the verdict, the report and the results, and no metrics.

It exists before the first child, and so does the view on the experiment that shows them grouped by condition.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from retrain.tracking.connection import TIMEOUT_SECONDS, Identity, MlflowRun
from retrain.tracking.folder import CampaignFolder
from retrain.tracking.uri import OFF, masked
from retrain.tracking.view import campaign_view, experiment_page, save_campaign_view
from retrain.tracking.watermark import Sent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.tracking.folder import Ending, Line
    from retrain.tracking.manifest import Entry, Manifest

ARTIFACTS = ("report.html", "results.json", "campaign.toml")
MAX_NOTE = 7500  # characters; MLflow keeps 8000


class ParentSink(MlflowRun):
    """Sends what a campaign says of itself as a whole."""

    def __init__(self, folder: CampaignFolder, sent: Sent, timeout: int = TIMEOUT_SECONDS) -> None:
        super().__init__(sent, timeout)
        self.folder = folder
        self._described: object = None  # what the last description was made from

    def open(self, *, running: bool) -> None:
        """Create the run and its view, or go on with those that were created before."""
        with self.patience(), _alone(self.folder.dir):
            if not self.sent.run_id:
                self.sent.reload()  # another process may have been faster
            manifest = self.folder.manifest()
            experiment, run = self.connect(manifest.tracking_uri, running=running)
            save_campaign_view(self.client, experiment, manifest.name, run.info.run_id)

    def identity(self) -> Identity:
        manifest = self.folder.manifest()
        tags = {
            "retrain.kind": "campaign",
            "campaign": manifest.name,
            "retrain.dir": str(self.folder.dir),
            "mlflow.source.name": manifest.source or "retrain",
            "mlflow.source.type": "LOCAL",
        }
        return Identity(
            uri=manifest.tracking_uri,
            experiment=manifest.experiment,
            name=manifest.name,
            started=manifest.created,
            tags=tags,
        )

    def send(self, lines: Sequence[Line]) -> None:
        """Send nothing: what a campaign measures, its runs have measured."""

    def describe(self) -> None:
        """Send the note and the files, where a run has ended or a file was written anew."""
        shown = (self.folder.manifest(), [_stat(self.folder.dir / name) for name in ARTIFACTS])
        if shown != self._described:
            with self.patience():
                self._tell()
            self._described = shown

    def finish(self, ending: Ending) -> None:
        """Send note and files as they are at the end, and the status."""
        with self.patience():
            self._tell()
            self.terminate(ending.state, ending.time)

    def _tell(self) -> None:
        manifest, identity = self.folder.manifest(), self.identity()
        results = read_results(self.folder.dir)
        there = self.client.get_run(self.sent.run_id).data.tags
        page = experiment_page("", self.sent.experiment_id, campaign_view(manifest.name, self.sent.run_id))
        self.tell(identity.tags, note(manifest, results, page), there)
        for name in ARTIFACTS:
            self._upload(self.folder.dir / name)

    def _upload(self, path: Path) -> None:
        """Upload a file unless the tracker has it as it is."""
        if not path.exists():
            return
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.sent.uploaded.get(path.name) != content:
            self.client.log_artifact(self.sent.run_id, str(path))
            self.sent.uploaded[path.name] = content
            self.sent.save()


def parent_id(root: Path) -> str:
    """Return the id of a campaign's own run, which is made where there is none yet."""
    folder, sent = CampaignFolder(root), Sent.load(root, "mlflow")
    if not sent.run_id or sent.tracking_uri != masked(folder.manifest().tracking_uri):
        ParentSink(folder, sent).open(running=not folder.manifest().is_over)
    return sent.run_id


def prepare_campaign(directory: Path) -> None:
    """Open a campaign's store, and make its own run and its view, so that its runs find them.

    The follower does this before anything else; training never does, for it imports MLflow.
    """
    if CampaignFolder(directory).manifest().tracking_uri != OFF:
        parent_id(directory)


def read_results(root: Path) -> dict[str, Any]:
    """Read `results.json`, which the report has written; empty: not yet, or not in a form known here."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads((root / "results.json").read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    return {}


def note(manifest: Manifest, results: Mapping[str, Any], page: str) -> str:
    """Markdown for the top of the campaign's page: only about four lines show, so the verdict comes first."""
    counted = Counter(run.state for run in manifest.runs)
    progress = f"{counted['done']} of {len(manifest.runs)} runs done"
    more = ", ".join(f"{number} {state}" for state, number in counted.items() if state not in {"done", "planned"})
    progress += f", {more}" if more else ""
    headline = str(results.get("headline") or "").strip()
    verdict = f"**{headline}** {progress}." if headline else f"**{progress}.**"
    go_on = "" if counted["done"] == len(manifest.runs) else f" · go on: `retrain resume {manifest.root}`"
    links = f"[Curves by condition]({page}) · everything on one page: Artifacts → `report.html`{go_on}"
    table = "| condition | runs |\n|---|---|\n" + "\n".join(
        f"| {label} | {_states([run for run in manifest.runs if run.label == label])} |" for label in manifest.labels
    )
    return f"{verdict}\n\n{links}\n\non disk: `{manifest.root}`\n\n{table}"[:MAX_NOTE]


def _states(runs: Sequence[Entry]) -> str:
    return ", ".join(f"{run.seed} {run.state}" for run in runs)


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Be the only process that makes this campaign's run."""
    folder = root / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".parent.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
