"""MLflow: one run of an experiment, with its curves, parameters, data set, note, figures and completions.

mlflow is imported when the sink opens, in the follower or `retrain sync`: it costs seconds and 180 MB.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.tracking import describe
from retrain.tracking.completions import COLUMNS, completions_table
from retrain.tracking.uri import database_path, masked
from retrain.tracking.view import save_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.store import RunRecord
    from retrain.tracking.figures import Figures
    from retrain.tracking.folder import Ending, Line, RunFolder
    from retrain.tracking.watermark import Sent

STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
NOTE = "mlflow.note.content"
TOKEN = "retrain.token"  # noqa: S105  a name to find the run by, no secret
PARAMS_A_CALL = 100  # what one log_batch takes
METRICS_A_CALL = 1000

# MLflow's own values block a call for four minutes when a server is dead; the user's are kept. A server that is only
# slow gets twice as long after each call that it has not answered in time.
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 5, 120
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

log = logging.getLogger("retrain.tracking")


class MlflowSink:
    """Sends one run directory to MLflow. Every method may fail half-way and be called again."""

    name = "mlflow"

    def __init__(self, folder: RunFolder, sent: Sent, figures: Figures, timeout: int = TIMEOUT_SECONDS) -> None:
        self.folder, self.sent, self.figures = folder, sent, figures
        self.client: Any = None
        self._timeout = 0 if TIMEOUT in os.environ else timeout  # seconds; 0: the user's own
        self._described: tuple[Any, Any] = ((), None)  # problems and best of run.json, as the tracker has them

    def open(self, *, running: bool) -> None:
        """Create the run, or go on with the one that was created before."""
        with self._patience():
            self._open(running=running)

    def _open(self, *, running: bool) -> None:
        record = self.folder.record()
        if self.sent.tracking_uri != masked(record.tracking_uri):
            self.sent.forget()
            self.sent.tracking_uri, self.sent.token = masked(record.tracking_uri), uuid.uuid4().hex
            self.sent.save()
        with store_lock(record.tracking_uri):
            self.client = _client(record.tracking_uri)
            experiment = self._experiment(record.tracking_uri)
        run = self._found(experiment.experiment_id)
        if run is None:
            run = self._created(experiment.experiment_id)
        elif running and run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.sent.experiment_id, self.sent.run_id = experiment.experiment_id, run.info.run_id
        self.sent.save()
        self._describe(run)
        save_view(self.client, experiment)

    def send(self, lines: Sequence[Line]) -> None:
        """Send some steps in one call, each stamped with the time at which it was measured."""
        with self._patience():
            self._log_metrics([(describe.values(line), line) for line in lines])

    def describe(self) -> None:
        """Send what the run says of itself, where that has changed: what is wrong with it, its best step."""
        record = self.folder.record()
        if self._described != (record.problems, record.best):
            with self._patience():
                self._set_tags(record, None)

    def finish(self, ending: Ending) -> None:
        """Send what belongs to the end: final values, note, figures, completions, the adapter, the status."""
        with self._patience():
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
        self._delete_doubles()
        self.client.set_terminated(run_id, STATUS[ending.state], int(ending.time * 1000))

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        """Wait twice as long from now on when the server has not answered in time, but the user's own time."""
        if self._timeout:
            os.environ[TIMEOUT] = str(self._timeout)
        try:
            yield
        except Exception as error:
            if "Read timed out" in str(error):
                self._timeout = min(2 * self._timeout, MAX_TIMEOUT_SECONDS)
            raise

    def _experiment(self, uri: str) -> Any:
        from mlflow.exceptions import MlflowException

        name = self.folder.setting("logging.experiment")
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                self.client.create_experiment(name, artifact_location=_artifact_location(uri))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another follower was faster
                    raise
            found = self.client.get_experiment_by_name(name)
        if found.tags.get("mlflow.experimentKind") != "custom_model_development":
            self.client.set_experiment_tag(found.experiment_id, "mlflow.experimentKind", "custom_model_development")
        return found

    def _found(self, experiment_id: str) -> Any:
        """The run of an earlier follower; None: there is none."""
        from mlflow.exceptions import MlflowException

        if not self.sent.run_id:  # killed between creating the run and writing its id down?
            runs = self._runs(experiment_id)
            return runs[0] if runs else None
        try:
            return self.client.get_run(self.sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning(
                "mlflow: run %s is no longer in the store; sending everything again as a new run", self.sent.run_id
            )
            uri, token = self.sent.tracking_uri, uuid.uuid4().hex
            self.sent.forget()
            self.sent.tracking_uri, self.sent.token = uri, token
            self.sent.save()
            return None

    def _runs(self, experiment_id: str) -> list[Any]:
        """The runs created for this directory: more than one when a server was too slow to say that it had."""
        return self.client.search_runs([experiment_id], f"tags.`{TOKEN}` = '{self.sent.token}'")

    def _delete_doubles(self) -> None:
        for run in self._runs(self.sent.experiment_id):
            if run.info.run_id != self.sent.run_id:
                self.client.delete_run(run.info.run_id)

    def _created(self, experiment_id: str) -> Any:
        record = self.folder.record()
        tags = {**describe.tags(self.folder, record), TOKEN: self.sent.token, "mlflow.user": _user()}
        return self.client.create_run(experiment_id, int(record.started * 1000), tags, record.name)

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
        from mlflow.entities import RunTag

        tags = {**describe.tags(self.folder, record), **(more or {})}
        note = describe.note(self.folder, record, self.folder.lines(), ending)
        there = self.client.get_run(self.sent.run_id).data.tags
        tags = {key: "" for key in describe.CHANGING if there.get(key)} | tags
        if there.get(NOTE, "") in {"", self.sent.note}:  # else somebody has written their own
            self.sent.note = tags[NOTE] = note
            self.sent.save()
        self.client.log_batch(self.sent.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
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

        if not dataset:
            return
        described = Dataset(
            name=str(dataset["name"]),
            digest=str(dataset["digest"])[:36],
            source_type="retrain",
            source=json.dumps({"source": source}),
            profile=json.dumps({"num_rows": dataset["rows"]}),
        )
        self.client.log_inputs(
            self.sent.run_id, datasets=[DatasetInput(described, [InputTag("mlflow.data.context", "training")])]
        )

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


def _client(uri: str) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import mlflow

    for name in ("mlflow", "mlflow.store.db.utils"):  # importing mlflow has set its own levels
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each retry is a warning there; the follower says it once
    return mlflow.MlflowClient(uri)


@contextlib.contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Open a sqlite store alone: of several processes that migrate a fresh one at once, all but one fail."""
    database = database_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: a server knows; else beside the database, never ./mlruns."""
    if uri.startswith(("http:", "https:", "databricks")):
        return None
    database = database_path(uri)
    return ((database.parent if database else Path("outputs").absolute()) / "mlartifacts").as_uri()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"
