"""Where a person looks at a run or a campaign: the tracker's page, behind our own server when it is in a database."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING

from retrain.errors import ConfigError, RunError
from retrain.store import RunRecord
from retrain.tracking.manifest import ManifestFile, is_campaign
from retrain.tracking.uri import OFF, database_path, masked
from retrain.tracking.view import campaign_view, experiment_page, run_page
from retrain.tracking.watermark import Sent

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 120.0  # a server imports mlflow twice, and the machine may be busy
STOP_SECONDS = 10.0


@contextlib.contextmanager
def serve(
    directory: Path | None, *, tracking_uri: str = "", experiment: str = "retrain", port: int = 0
) -> Iterator[str]:
    """Yield the address of a run's curves or a campaign's, or of an experiment's charts, while it is served.

    The server that it was tracked to is used; where that was a database, an MLflow server on 127.0.0.1 is started on it
    (on `port`, or a free one), and stopped at the end. Without a directory, `tracking_uri` names the store, and the
    page is the experiment's.

    Raises:
        ConfigError: the directory, or the store, holds nothing to look at.
        RunError: the server does not answer.
    """
    uri = tracking_uri_of(directory) if directory is not None else tracking_uri
    if uri == OFF:
        raise ConfigError(_untracked(directory))
    sent = _tracked(directory) if directory is not None else None
    with _server(uri, port) as server:
        if sent is None or directory is None:
            yield experiment_page(server, _experiment_id(server, experiment))
        elif is_campaign(directory):
            view = campaign_view(ManifestFile(directory).read().name, sent.run_id)
            yield experiment_page(server, sent.experiment_id, view)
        else:
            yield run_page(server, sent.experiment_id, sent.run_id)


def tracking_uri_of(directory: Path) -> str:
    """The store of a run or a campaign, or "none"."""
    record = ManifestFile(directory).read() if is_campaign(directory) else RunRecord.read(directory)
    return record.tracking_uri


def _untracked(directory: Path | None) -> str:
    if directory is None:
        return 'nothing is tracked here: logging.tracking_uri is "none"; set it, and train again'
    shown = (
        f"report is {directory / 'report.html'}" if is_campaign(directory) else f"figures are in {directory / 'plots'}"
    )
    return f'{directory} was trained with logging.tracking_uri = "none"; its {shown}'


def _tracked(directory: Path) -> Sent:
    sent = Sent.load(directory, "mlflow")
    if not sent.run_id:
        reason = f": {sent.problem}" if sent.problem else ""
        raise ConfigError(f"{directory} is not in the tracker yet{reason}; send it: retrain sync {directory}")
    return sent


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[str]:
    """Yield the root address of a server that shows the store `uri`."""
    if uri.startswith(("http://", "https://")):
        server = uri.rstrip("/")
        if not _answers(server):
            raise RunError(f"{masked(server)} does not answer; is the MLflow server running?")
        yield server
        return
    database = database_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(f"there is no tracked run yet: {database} does not exist; train one: retrain CONFIG.toml")
    port = port or _free_port()
    server = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as output, _process(_command(uri, database, port), output) as process:
        _wait_until_ready(server, process, output)
        yield server


def _command(uri: str, database: Path | None, port: int) -> list[str]:
    artifacts = ((database.parent if database else Path("outputs").absolute()) / "mlartifacts").as_uri()
    store = ["--backend-store-uri", uri, "--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    return [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]


@contextlib.contextmanager
def _process(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server with its workers in a process group of its own, which ends with the block."""
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(server: str, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server):
        if process.poll() is not None or time.monotonic() > deadline:
            output.seek(0)
            last = output.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RunError(f"the MLflow server did not start: {''.join(last) or 'it said nothing'}")
        time.sleep(0.2)


def _answers(server: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server}/health", timeout=5) as reply:  # noqa: S310  http(s), checked by the callers
            return reply.status == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _experiment_id(server: str, name: str) -> str:
    query = urllib.parse.urlencode({"experiment_name": name})
    address = f"{server}/api/2.0/mlflow/experiments/get-by-name?{query}"
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:  # noqa: S310  http(s), checked by the callers
            return json.load(reply)["experiment"]["experiment_id"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise RunError(f"{masked(server)} answers {error.code} when asked for its experiments") from error
        raise ConfigError(
            f'there is no tracked run yet: no experiment "{name}"; train one: retrain CONFIG.toml'
        ) from None
