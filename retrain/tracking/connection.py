"""One run in an MLflow store: found or made, and told things, by a client that waits no longer than it must.

mlflow is imported when the run opens, in the follower or `retrain sync`: it costs seconds and 180 MB.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.tracking.uri import database_path, masked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.tracking.watermark import Sent

STATUS = {"done": "FINISHED", "failed": "FAILED"}  # of an ending; any other is KILLED
NOTE = "mlflow.note.content"
TOKEN = "retrain.token"  # noqa: S105  a name to find the run by, no secret

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


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is made of, should it have to be made."""

    uri: str
    experiment: str
    name: str
    started: float  # unix seconds
    tags: Mapping[str, str]


class MlflowRun:
    """A run in a store, which `sent` remembers. Every method may fail half-way and be called again."""

    name = "mlflow"

    def __init__(self, sent: Sent, timeout: int) -> None:
        self.sent = sent
        self.client: Any = None
        self._timeout = 0 if TIMEOUT in os.environ else timeout  # seconds; 0: the user's own

    def identity(self) -> Identity:
        """Say what the run is called and where it belongs."""
        raise NotImplementedError

    def connect(self, uri: str, *, running: bool) -> tuple[Any, Any]:
        """Open the store, find or make the run, and return (experiment, run)."""
        if self.sent.tracking_uri != masked(uri):
            self.sent.forget()
            self.sent.tracking_uri, self.sent.token = masked(uri), uuid.uuid4().hex
            self.sent.save()
        with store_lock(uri):
            self.client = _client(uri)
        who = self.identity()
        with store_lock(uri):
            experiment = self._experiment(who)
        run = self._found(experiment.experiment_id)
        if run is None:
            tags = {**who.tags, TOKEN: self.sent.token, "mlflow.user": _user()}
            run = self.client.create_run(experiment.experiment_id, int(who.started * 1000), tags, who.name)
        elif running and run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.sent.experiment_id, self.sent.run_id = experiment.experiment_id, run.info.run_id
        self.sent.save()
        return experiment, run

    def tell(self, tags: Mapping[str, str], note: str, there: Mapping[str, str]) -> None:
        """Set tags, and the note unless somebody has written their own; `there`: the tags that the run has."""
        from mlflow.entities import RunTag

        wanted = dict(tags)
        if there.get(NOTE, "") in {"", self.sent.note}:
            self.sent.note = wanted[NOTE] = note
            self.sent.save()
        self.client.log_batch(self.sent.run_id, tags=[RunTag(key, value) for key, value in wanted.items()])

    def terminate(self, state: str, time: float) -> None:
        """Give the run its status, and delete what was made beside it while a server was too slow to answer."""
        for run in self._runs(self.sent.experiment_id):
            if run.info.run_id != self.sent.run_id:
                self.client.delete_run(run.info.run_id)
        self.client.set_terminated(self.sent.run_id, STATUS.get(state, "KILLED"), int(time * 1000))

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Wait twice as long from now on when the server has not answered in time, but the user's own time."""
        if self._timeout:
            os.environ[TIMEOUT] = str(self._timeout)
        try:
            yield
        except Exception as error:
            if "Read timed out" in str(error):
                self._timeout = min(2 * self._timeout, MAX_TIMEOUT_SECONDS)
            raise

    def _experiment(self, who: Identity) -> Any:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(who.experiment)
        if found is None:
            try:
                self.client.create_experiment(who.experiment, artifact_location=_artifact_location(who.uri))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another follower was faster
                    raise
            found = self.client.get_experiment_by_name(who.experiment)
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
