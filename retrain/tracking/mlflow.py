"""MLflow: one run of an experiment, with its curves, parameters, data set, note, figures and completions.

A run of a campaign is a child of the campaign's own run, which is made first, by whoever comes first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.tracking import describe
from retrain.tracking.completions import COLUMNS, completions_table
from retrain.tracking.connection import TIMEOUT_SECONDS, Identity, MlflowRun
from retrain.tracking.parent import parent_id
from retrain.tracking.uri import masked
from retrain.tracking.view import RUNS, save_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain.store import RunRecord
    from retrain.tracking.figures import Figures
    from retrain.tracking.folder import Ending, Line, RunFolder
    from retrain.tracking.watermark import Sent

PARAMS_A_CALL = 100  # what one log_batch takes
METRICS_A_CALL = 1000


class MlflowSink(MlflowRun):
    """Sends one run directory to MLflow."""

    def __init__(self, folder: RunFolder, sent: Sent, figures: Figures, timeout: int = TIMEOUT_SECONDS) -> None:
        super().__init__(sent, timeout)
        self.folder, self.figures = folder, figures
        self._parent = ""  # id of the campaign's own run
        self._described: tuple[Any, Any] = ((), None)  # problems and best of run.json, as the tracker has them

    def open(self, *, running: bool) -> None:
        """Create the run, or go on with the one that was created before."""
        with self.patience():
            experiment, run = self.connect(self.folder.record().tracking_uri, running=running)
            self._describe(run)
            self._replace_earlier(run.info.run_name)
            save_view(self.client, experiment)

    def identity(self) -> Identity:
        record, place = self.folder.record(), self.folder.place()
        in_its_store = place is not None and masked(place.campaign.tracking_uri) == masked(record.tracking_uri)
        self._parent = parent_id(place.campaign.root) if place is not None and in_its_store else ""
        return Identity(
            uri=record.tracking_uri,
            experiment=self.folder.setting("logging.experiment"),
            name=place.entry.name if place is not None else record.name,
            started=record.started,
            tags=self._tags(record),
        )

    def _replace_earlier(self, name: str) -> None:
        """Take an earlier beginning of this run, put aside on disk too, out of the campaign's charts."""
        if not self._parent:
            return
        query = f"tags.`mlflow.parentRunId` = '{self._parent}' AND attributes.run_name = '{name}' AND {RUNS}"
        for run in self.client.search_runs([self.sent.experiment_id], query):
            if run.info.run_id != self.sent.run_id:
                self.client.set_tag(run.info.run_id, "retrain.kind", "replaced")

    def _tags(self, record: RunRecord) -> dict[str, str]:
        parent = {"mlflow.parentRunId": self._parent} if self._parent else {}
        return describe.tags(self.folder, record) | parent

    def send(self, lines: Sequence[Line]) -> None:
        """Send some steps in one call, each stamped with the time at which it was measured."""
        with self.patience():
            self._log_metrics([(describe.values(line), line) for line in lines])

    def describe(self) -> None:
        """Send what the run says of itself, where that has changed: what is wrong with it, its best step."""
        record = self.folder.record()
        if self._described != (record.problems, record.best):
            with self.patience():
                self._set_tags(record, None)

    def finish(self, ending: Ending) -> None:
        """Send what belongs to the end: final values, note, figures, completions, the adapter, the status."""
        with self.patience():
            self._finish(ending)

    def _finish(self, ending: Ending) -> None:
        run_id, record, lines = self.sent.run_id, self.folder.record(), self.folder.lines()
        if lines and ending.state == "done":
            self._log_final(lines)
        self._set_tags(record, ending)
        for figure in self.figures.draw():
            self.client.log_artifact(run_id, str(figure), "figures")
        self._log_completions()
        artifact = Path(record.artifact) if record.artifact else None
        if self.folder.setting("logging.log_adapter") and artifact is not None and artifact.exists():
            self.client.log_artifacts(run_id, str(artifact), artifact.name)
        self.terminate(ending.state, ending.time)

    def _describe(self, run: Any) -> None:
        """Send what is known from the start. Parameters cannot change: a changed one goes into a tag."""
        from mlflow.entities import Param

        record, known = self.folder.record(), run.data.params
        wanted = describe.params(self.folder.config())
        new = [Param(key, value) for key, value in wanted.items() if key not in known]
        for start in range(0, len(new), PARAMS_A_CALL):
            self.client.log_batch(run.info.run_id, params=new[start : start + PARAMS_A_CALL])
        changed = [
            {"key": key, "from": known[key], "to": value}
            for key, value in wanted.items()
            if known.get(key, value) != value
        ]
        more = {"retrain.resumed": json.dumps(changed, ensure_ascii=False)} if changed else {}
        self._set_tags(record, None, more)
        self._log_dataset(record.dataset, str(self.folder.setting("data.source")))
        if (config := self.folder.dir / "config.toml").exists():
            self.client.log_artifact(run.info.run_id, str(config))

    def _set_tags(self, record: RunRecord, ending: Ending | None, more: Mapping[str, str] | None = None) -> None:
        tags = {**self._tags(record), **(more or {})}
        note = describe.note(self.folder, record, self.folder.lines(), ending)
        there = self.client.get_run(self.sent.run_id).data.tags
        self.tell({key: "" for key in describe.CHANGING if there.get(key)} | tags, note, there)
        self._described = (record.problems, record.best)

    def _log_final(self, lines: Sequence[Line]) -> None:
        """Send the final values, once: a last step that is measured again, after a resume, has another time."""
        step = int(lines[-1]["step"])
        if self.sent.final_step < step:
            self._log_metrics([(describe.final_metrics(lines), lines[-1])])
            self.sent.final_step = step
            self.sent.save()

    def _log_metrics(self, measured: Sequence[tuple[dict[str, float], Line]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, int(line["time"] * 1000), int(line["step"]))
            for metrics, line in measured
            for key, value in metrics.items()
        ]
        for start in range(0, len(points), METRICS_A_CALL):
            self.client.log_batch(self.sent.run_id, metrics=points[start : start + METRICS_A_CALL])

    def _log_dataset(self, dataset: dict[str, Any] | None, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        if not dataset:
            return
        described = Dataset(
            name=str(dataset["name"]),
            digest=str(dataset["digest"])[:36],
            source_type="retrain",
            source=json.dumps({"source": source}),
            profile=json.dumps({"num_rows": dataset["rows"]}),
        )
        inputs = [DatasetInput(described, [InputTag("mlflow.data.context", "training")])]
        try:
            self.client.log_inputs(self.sent.run_id, datasets=inputs)
        except MlflowException as error:
            if "UNIQUE" not in str(error).upper():
                raise
            self.client.log_inputs(self.sent.run_id, datasets=inputs)  # another run was the first with the same data

    def _log_completions(self) -> None:
        """Write the table in one go: `log_table` would append to it when this is done a second time."""
        rows = completions_table(self.folder.dir, int(self.folder.setting("logging.log_completions")))
        if not rows:
            return
        self.client.log_text(self.sent.run_id, _table_json(rows), "completions.json")
        listed = json.dumps([{"path": "completions.json", "type": "table"}])
        self.client.set_tag(self.sent.run_id, "mlflow.loggedArtifacts", listed)


def _table_json(rows: Sequence[Sequence[Any]]) -> str:
    return json.dumps({"columns": list(COLUMNS), "data": rows}, ensure_ascii=False)
