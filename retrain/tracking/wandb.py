"""Weights & Biases: the same projection as MLflow's, for those who look there. Optional.

wandb keeps what it is given on disk and sends it in a process of its own, offline too (WANDB_MODE=offline).
"""

from __future__ import annotations

import importlib.util
import uuid
from typing import TYPE_CHECKING, Any

from retrain.errors import Problem
from retrain.tracking import describe
from retrain.tracking.completions import COLUMNS, completions_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.tracking.folder import Ending, Line, RunFolder
    from retrain.tracking.manifest import Place
    from retrain.tracking.watermark import Sent

INIT_SECONDS = 30.0  # for the server to answer; then the follower backs off and tries again


def check_wandb() -> Problem | None:
    """Say what is missing when `logging.wandb_project` is set; known before training, without importing wandb."""
    if importlib.util.find_spec("wandb") is not None:
        return None
    return Problem(
        message="logging.wandb_project is set, and the package wandb is not installed",
        hint='pip install "retrain[wandb]"',
        key="logging.wandb_project",
    )


class WandbSink:
    """Sends one run directory to a Weights & Biases project. Every method may fail half-way and be called again."""

    name = "wandb"

    def __init__(self, folder: RunFolder, sent: Sent) -> None:
        self.folder, self.sent = folder, sent
        self.run: Any = None
        self._told = dict.fromkeys(describe.CHANGING, "")

    def open(self, *, running: bool) -> None:  # noqa: ARG002  wandb has no state to set back: an open run is running
        """Start the run, or go on with it under the id that it was started with."""
        import wandb

        record, setting, place = self.folder.record(), self.folder.setting, self.folder.place()
        if not self.sent.run_id:
            self.sent.run_id = uuid.uuid4().hex[:8]
            self.sent.save()
        self.run = wandb.init(
            project=setting("logging.wandb_project"),
            entity=setting("logging.wandb_entity") or None,
            group=setting("logging.wandb_group") or (place.campaign.name if place is not None else None),
            name=_name(setting("logging.wandb_run_name"), record.name, place),
            tags=list(setting("logging.wandb_tags")),
            notes=describe.note(self.folder, record, self.folder.lines(), None),
            config={**describe.params(self.folder.config()), "condition": describe.condition(self.folder)},
            id=self.sent.run_id,
            resume="allow",
            reinit="create_new",  # the runs of a campaign are open side by side
            dir=str(self.folder.tracking),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
            ),
        )

    def send(self, lines: Sequence[Line]) -> None:
        """Send some steps on their own step axis, each stamped with the time at which it was measured."""
        for line in lines:
            self.run.log({**describe.values(line), "_timestamp": line["time"]}, step=int(line["step"]), commit=True)

    def describe(self) -> None:
        """Send what the run says of itself: what is wrong with it, its best step."""
        tags = describe.tags(self.folder, self.folder.record())
        told = {key: tags.get(key, "") for key in describe.CHANGING}
        if told != self._told:
            self.run.summary.update(told)
            self._told = told

    def finish(self, ending: Ending) -> None:
        """Send final values and completions, and close the run."""
        import wandb

        record, lines = self.folder.record(), self.folder.lines()
        rows = completions_table(self.folder.dir, int(self.folder.setting("logging.log_completions")))
        if rows:
            self.run.summary["completions"] = wandb.Table(columns=list(COLUMNS), data=list[Any](rows))
        self.describe()
        if ending.state == "done":
            self.run.summary.update(describe.final_metrics(lines))
        self.run.notes = describe.note(self.folder, record, lines, ending)
        self.run.finish(exit_code=0 if ending.state == "done" else 1)


def _name(wanted: str, own: str, place: Place | None) -> str:
    """The user's name for a run; in a campaign, where that is one name for all, with the run's own behind it."""
    if place is None:
        return wanted or own
    return f"{wanted} {place.entry.name}" if wanted else place.entry.name
