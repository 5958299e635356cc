"""A real MLflow server that is killed and comes back, and the page that `retrain ui` opens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from retrain.errors import ConfigError, RunError
from retrain.tracking import pending, wait_for_follower
from retrain.tracking.address import _answers, serve
from retrain.tracking.follower import sync
from retrain.tracking.watermark import Sent
from tests.tracking.training import Database, Training, expected, line_of, spawn_follower, wait_until

if TYPE_CHECKING:
    from pathlib import Path


class Server:
    """`mlflow server` on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = f"sqlite:///{folder / 'server.db'}"

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.store]
        command += ["--artifacts-destination", (self.folder / "artifacts").as_uri()]
        self.process = subprocess.Popen(
            command,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: _answers(self.url), 120)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
def test_a_server_killed_and_restarted_loses_and_doubles_nothing(tmp_path: Path):
    server = Server(tmp_path)
    server.start()
    training = Training(tmp_path / "run", server.url).steps(1, 10).rollouts(1, 2)
    follower = spawn_follower(training.dir)
    wait_until(lambda: Sent.load(training.dir, "mlflow").step == 10)
    training.steps(11, 400)  # while these are on their way
    wait_until(lambda: Sent.load(training.dir, "mlflow").step > 30)
    server.kill()
    wait_until(lambda: Sent.load(training.dir, "mlflow").problem != "")
    assert Sent.load(training.dir, "mlflow").step < 400, "it was not killed in the middle"
    training.steps(401, 410).end()
    (behind,) = pending(training.dir)
    assert behind.steps == 410
    assert not wait_for_follower(training.dir, 0.5)
    server.start()
    try:
        assert wait_for_follower(training.dir, 90)
        assert follower.wait(10) == 0
        with serve(training.dir) as page:
            assert page.startswith(f"{server.url}/#/experiments/")
    finally:
        server.kill()
    store = Database(server.store)
    (run,) = store.runs(training.dir)
    assert store.points(run) == expected([line_of(step) for step in range(1, 411)])
    assert store.status(run) == "FINISHED"
    assert list((tmp_path / "artifacts").rglob("completions.json"))
    log = (training.dir / "tracking" / "follower.log").read_text().splitlines()
    assert [("trying again" in line, "caught up at step 410" in line) for line in log] == [
        (True, False),
        (False, True),
    ], log


def test_ui_serves_a_run_from_its_store_and_the_charts_of_all_runs(train, database: Database):
    training = train("shown").steps(1, 3).rollouts(1).end()
    assert sync(training.dir, print)
    sent = Sent.load(training.dir, "mlflow")
    with serve(training.dir) as page:
        root, _, fragment = page.partition("/#")
        assert fragment == f"/experiments/{sent.experiment_id}/runs/{sent.run_id}/model-metrics"
        artifact = f"{root}/get-artifact?run_uuid={sent.run_id}&path=completions.json"
        with urllib.request.urlopen(artifact, timeout=30) as reply:
            assert b"boxed" in reply.read()
        with serve(None, tracking_uri=root) as charts:
            query = "viewStateShareKey=retrain&compareRunsMode=CHART&workflowType=machine_learning"
            assert charts == f"{root}/#/experiments/{sent.experiment_id}/runs?{query}"
        with (
            pytest.raises(ConfigError, match='no experiment "nobody"'),
            serve(None, tracking_uri=root, experiment="nobody"),
        ):
            pass
    assert not _answers(root), "the server outlived its page"


def test_ui_says_what_is_missing(tmp_path: Path):
    with (
        pytest.raises(ConfigError, match="there is no tracked run yet"),
        serve(None, tracking_uri=f"sqlite:///{tmp_path}/no.db"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="its figures are in"),
        serve(Training(tmp_path / "off", "none").dir),
    ):
        pass
    with pytest.raises(ConfigError, match="retrain sync"), serve(Training(tmp_path / "unsent", "sqlite:////x.db").dir):
        pass
    with pytest.raises(RunError, match="does not answer"), serve(None, tracking_uri="http://127.0.0.1:9"):
        pass
