"""The one follower of a campaign when its tracker fails, what it costs, and the page that `retrain ui` opens."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from retrain import tracking
from retrain.errors import ConfigError
from retrain.tracking import connection
from retrain.tracking.address import serve
from retrain.tracking.campaigns import Desk, Post, Roster, follow_campaign, sync_campaign
from retrain.tracking.folder import CampaignFolder, RunFolder
from retrain.tracking.follower import Mirror
from retrain.tracking.manifest import colour
from retrain.tracking.watermark import Sent
from tests.tracking.campaign import Campaign
from tests.tracking.faulty_server import faulty_server
from tests.tracking.test_wandb_offline import history
from tests.tracking.training import Database, expected, line_of, spawn_follower, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.tracking.folder import Ending, Line


def lines(first: int, last: int) -> list[dict[str, float]]:
    return [line_of(step) for step in range(first, last + 1)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        connection, "ENVIRONMENT", {**connection.ENVIRONMENT, "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
    )
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv(connection.TIMEOUT, "5")


def test_an_outage_is_said_once_for_all_runs_and_loses_nothing(
    tmp_path: Path, store: str, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "retrain.tracking")
    with faulty_server(tmp_path, store, monkeypatch) as (url, gate):
        campaign = Campaign(tmp_path / "abl", url, ["a"], [1, 2, 3])
        trainings = [campaign.begin(entry["name"]).steps(1, 3) for entry in campaign.values["runs"]]
        thread = threading.Thread(target=follow_campaign, args=(campaign.dir,))
        thread.start()
        wait_until(lambda: all(Sent.load(one.dir, "mlflow").step == 3 for one in trainings))
        gate.refuse = {"log-batch": "500 INTERNAL SERVER ERROR"}
        for training in trainings:
            training.steps(4, 6)
        wait_until(lambda: all(Sent.load(one.dir, "mlflow").problem for one in trainings))
        gate.refuse = {}
        for training in trainings:
            training.steps(7, 9).end()
            campaign.mark(training.dir.name, state="done", ended=1.0)
        campaign.end()
        thread.join(90)
        assert not thread.is_alive()
    for training in trainings:
        (run,) = database.runs(training.dir)
        assert database.points(run) == expected(lines(1, 9))
    said = [message for message in caplog.messages if message.startswith("mlflow:")]
    assert ["trying again" in message for message in said] == [True, False], said
    assert said[-1] == "mlflow: caught up"
    assert tracking.pending(campaign.dir) == []


def test_a_tracker_that_is_dead_from_start_to_end_is_given_up_and_gets_everything_by_sync(
    tmp_path: Path, store: str, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    campaign = Campaign(tmp_path / "abl", "http://127.0.0.1:9", ["a"], [1, 2])
    trainings = [campaign.begin(entry["name"]).steps(1, 4).end() for entry in campaign.values["runs"]]
    for training in trainings:
        campaign.mark(training.dir.name, state="done", ended=1.0)
    campaign.end()
    follow_campaign(campaign.dir, patience=0.2)
    assert "gave up" in caplog.text
    assert f"retrain sync {campaign.dir}" in caplog.text
    (behind,) = tracking.pending(campaign.dir)
    assert (behind.sent, behind.steps) == (0, 8)
    assert behind.problem
    with faulty_server(tmp_path, store, monkeypatch) as (url, _):
        campaign.values["tracking_uri"] = url
        campaign.write()
        for training in trainings:
            training.update(tracking_uri=url)
        said: list[str] = []
        assert sync_campaign(campaign.dir, said.append), said
    for training in trainings:
        (run,) = database.runs(training.dir)
        assert database.points(run) == expected(lines(1, 4))


class Picky:
    """A tracker that takes every run but some."""

    name = "picky"
    refused: frozenset[str] = frozenset()

    def __init__(self, run: str) -> None:
        self.run = run
        self.got: list[int] = []

    def open(self, *, running: bool) -> None:
        if self.run in self.refused:
            raise ConnectionError(f"not {self.run}")

    def send(self, lines: Sequence[Line]) -> None:
        self.got += [int(line["step"]) for line in lines]

    def describe(self) -> None:
        """Say nothing."""

    def finish(self, ending: Ending) -> None:
        """Say nothing."""


def test_a_run_that_cannot_be_sent_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Picky, "refused", frozenset({"a_s1"}))
    campaign = Campaign(tmp_path / "abl", "none", ["a"], [1, 2, 3])
    trainings = [campaign.begin(entry["name"]).steps(1, 2) for entry in campaign.values["runs"]]
    desk = Desk("picky", CampaignFolder(campaign.dir), patience=60)
    for training in trainings:
        (training.dir / "tracking").mkdir()
        folder, sink = RunFolder(training.dir), Picky(training.dir.name)
        desk.posts.append(Post(training.dir.name, Mirror(folder, sink, Sent.load(training.dir, "picky"))))
    desk.start()
    got = [post.mirror.sink.got for post in desk.posts]  # pyright: ignore[reportAttributeAccessIssue]  it is Picky's
    wait_until(lambda: got[1] == got[2] == [1, 2], 20)
    trainings[2].steps(3, 4)
    wait_until(lambda: got[2] == [1, 2, 3, 4], 20)
    assert got[0] == []
    monkeypatch.setattr(Picky, "refused", frozenset())
    wait_until(lambda: got[0] == [1, 2], 20)
    desk.stopped.set()
    desk.join(5)


def calls_of_an_update(folder: Path, finished: int) -> int:
    """How many function calls one look at a campaign takes, when so many runs are over and one goes on."""
    campaign = Campaign(folder, "none", ["a"], range(finished + 1))
    for seed in range(finished):
        campaign.begin(f"a_s{seed}").end()
        campaign.mark(f"a_s{seed}", state="done", ended=1.0)
    campaign.begin(f"a_s{finished}")
    roster = Roster(CampaignFolder(campaign.dir), patience=1)
    for _ in range(3):
        roster.update()
    assert list(roster.members) == [f"a_s{finished}"]
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    roster.update()
    sys.setprofile(None)
    roster.close()
    return count


def test_runs_that_are_over_cost_nothing(tmp_path: Path):
    assert calls_of_an_update(tmp_path / "few", 2) == calls_of_an_update(tmp_path / "many", 30)


def test_wandb_gets_each_run_of_a_campaign_in_one_group(tmp_path: Path):
    pytest.importorskip("wandb")
    campaign = Campaign(tmp_path / "abl", "none", ["a"], [1, 2], wandb_project="p")
    trainings = [campaign.begin(entry["name"]).steps(1, 3) for entry in campaign.values["runs"]]
    follower = spawn_follower(campaign.dir, WANDB_MODE="offline")
    wait_until(lambda: all(Sent.load(one.dir, "wandb").step == 3 for one in trainings), 90)
    for training in trainings:  # both are open at once
        training.steps(4, 5).end()
        campaign.mark(training.dir.name, state="done", ended=1.0)
    campaign.end()
    assert follower.wait(90) == 0
    for training in trainings:
        rows = [row for row in history(training.dir) if "reward/mean" in row]
        assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5]
    assert tracking.pending(campaign.dir) == []


def test_neighbouring_conditions_have_colours_of_their_own():
    colours = [colour(index) for index in range(21)]
    assert len(set(colours)) == 21
    assert all(len(one) == 7 for one in colours)


def test_ui_opens_the_campaigns_own_view(tmp_path: Path):
    """Against something that only says that it is healthy: the address is made from what the follower wrote down."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as the base class names it
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    campaign = Campaign(tmp_path / "abl", url, ["a"], [1])
    with pytest.raises(ConfigError, match="not in the tracker yet"), serve(campaign.dir):
        pass
    (campaign.dir / "tracking").mkdir()
    sent = Sent.load(campaign.dir, "mlflow")
    sent.experiment_id, sent.run_id = "7", "0123456789abcdef"
    sent.save()
    with serve(campaign.dir) as address:
        query = "viewStateShareKey=abl-01234567&compareRunsMode=CHART&workflowType=machine_learning"
        assert address == f"{url}/#/experiments/7/runs?{query}"
    server.shutdown()
    server.server_close()
    off = Campaign(tmp_path / "off", "none", ["a"], [1])
    with pytest.raises(ConfigError, match=r"its report is .*report\.html"), serve(off.dir):
        pass
