"""One follower for all runs of a campaign: every point once, whatever is killed, added, resumed or sent by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from retrain import tracking
from retrain.errors import ConfigError
from retrain.tracking import campaigns, view
from retrain.tracking.campaigns import follow_campaign, sync_campaign
from retrain.tracking.follower import sync
from retrain.tracking.watermark import Sent, claim, is_claimed
from tests.tracking.campaign import Campaign
from tests.tracking.training import Database, Training, expected, line_of, spawn_follower, wait_until

if TYPE_CHECKING:
    from pathlib import Path

Conduct = Callable[..., Campaign]


@pytest.fixture
def conduct(tmp_path: Path, store: str) -> Conduct:
    """conduct(["a", "b"], [1, 2]): a campaign that tracks to the shared store."""
    return lambda labels, seeds, name="abl", uri=store, **logging: Campaign(
        tmp_path / name, uri, labels, seeds, **logging
    )


@contextmanager
def followed(campaign: Campaign) -> Iterator[None]:
    """Follow a campaign in a thread, which has to end by itself."""
    thread = threading.Thread(target=follow_campaign, args=(campaign.dir,))
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def finish(campaign: Campaign, training: Training, state: str = "done") -> None:
    training.end(state)
    campaign.mark(training.dir.name, state=state, ended=training.record.ended)


def lines(first: int, last: int, attempt: int = 0) -> list[dict[str, float]]:
    return [line_of(step, attempt) for step in range(first, last + 1)]


def test_eight_runs_at_once_and_a_killed_follower_lose_and_double_nothing(conduct: Conduct, database: Database):
    campaign = conduct(["a", "b", "c", "d"], [1, 2])
    names = [entry["name"] for entry in campaign.values["runs"]]
    trainings = [campaign.begin(name) for name in names]
    going_on = threading.Event()

    def write(training: Training) -> None:
        for step in range(1, 121):
            training.steps(step, step)
            time.sleep(0.01)
            if step == 80:
                going_on.wait(120)

    writers = [threading.Thread(target=write, args=(training,)) for training in trainings]
    first = spawn_follower(campaign.dir)
    for writer in writers:
        writer.start()
    wait_until(lambda: sum(Sent.load(training.dir, "mlflow").step for training in trainings) > 60)
    first.kill()
    first.wait()
    reached = [Sent.load(training.dir, "mlflow").step for training in trainings]
    assert sum(reached) < 8 * 120, "it was not killed in the middle"
    second = tracking.start_follower(campaign.dir)
    going_on.set()
    for writer in writers:
        writer.join()
    for training in trainings:
        finish(campaign, training)
    campaign.end()
    assert tracking.wait_for_follower(campaign.dir, 90)
    assert second.wait(10) == 0
    for training in trainings:
        (run,) = database.runs(training.dir)
        assert database.points(run) == expected(lines(1, 120))
        assert database.status(run) == "FINISHED"
        assert (training.dir / "plots" / "reward.png").exists()
    (parent,) = database.runs(campaign.dir)
    assert database.status(parent) == "FINISHED"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, store: str) -> Campaign:
    """Two conditions, two seeds, one run failed, one never begun; sent."""
    campaign = Campaign(
        tmp_path_factory.mktemp("whole") / "it's an ablation", store, ["a", "b"], [1, 2], experiment="c"
    )
    finish(campaign, campaign.begin("a_s1").steps(1, 12))
    finish(campaign, campaign.begin("a_s2").steps(1, 12), "failed")
    finish(campaign, campaign.begin("b_s1").steps(1, 12))
    campaign.report("b beats a by 0.1").end("failed")
    said: list[str] = []
    assert sync_campaign(campaign.dir, said.append), said
    return campaign


def test_runs_are_children_with_condition_seed_campaign_and_a_colour_by_condition(
    finished: Campaign, database: Database
):
    (parent,) = database.runs(finished.dir)
    tags = {name: database.tags(database.runs(finished.dir / "runs" / name)[0]) for name in ("a_s1", "a_s2", "b_s1")}
    wanted = {
        "mlflow.parentRunId": parent,
        "mlflow.runName": "a_s2",
        "condition": "a",
        "seed": "2",
        "campaign": "it's an ablation",
        "retrain.kind": "run",
    }
    assert {key: tags["a_s2"].get(key) for key in wanted} == wanted
    assert tags["a_s1"]["mlflow.runColor"] == tags["a_s2"]["mlflow.runColor"] != tags["b_s1"]["mlflow.runColor"]
    assert tags["b_s1"]["mlflow.note.content"].startswith("**b**, seed 1: ")


def test_the_parent_has_the_verdict_the_report_and_no_metrics(finished: Campaign, database: Database):
    (parent,) = database.runs(finished.dir)
    tags = database.tags(parent)
    assert "condition" not in tags
    assert (tags["retrain.kind"], tags["mlflow.runName"]) == ("campaign", "it's an ablation")
    assert tags["mlflow.note.content"].split("\n")[0] == "**b beats a by 0.1** 2 of 4 runs done, 1 failed."
    assert database.rows("select * from metrics where run_uuid = ?", parent) == []
    assert database.status(parent) == "FAILED"
    for name in ("report.html", "results.json", "campaign.toml"):
        assert (database.artifacts(parent) / name).read_bytes() == (finished.dir / name).read_bytes()


def test_the_campaigns_view_is_grouped_by_condition_and_shows_its_runs_only(finished: Campaign, database: Database):
    (parent,) = database.runs(finished.dir)
    query = "select key, value from experiment_tags join experiments using (experiment_id) where name = 'c'"
    key = f"{view.TAG}it-s-an-ablation-{parent[:8]}"
    saved = json.loads(dict(database.rows(query))[key])
    assert saved["name"] == "it's an ablation"
    runs = f"tags.`mlflow.parentRunId` = '{parent}' AND tags.`retrain.kind` = 'run'"
    assert saved["state"] == view.packed(view.view_state(runs, grouped=True))
    state = view.view_state(runs, grouped=True)
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "condition"}]
    assert next(section["name"] for section in state["compareRunSections"]) == "eval"


def test_sending_again_sends_nothing_and_a_new_report_is_sent_alone(finished: Campaign, database: Database, store: str):
    assert tracking.pending(finished.dir) == []
    said: list[str] = []
    assert sync_campaign(finished.dir, said.append)
    assert said[-1] == "3 of 4 runs are sent as far as they have come"
    (parent,) = database.runs(finished.dir)
    before = database.rows("select count(*) from metrics")
    finished.report("b beats a by 0.2")
    assert [one.sink for one in tracking.pending(finished.dir)] == ["mlflow"]
    assert sync_campaign(finished.dir, said.append)
    assert "by 0.2" in (database.artifacts(parent) / "report.html").read_text()
    assert database.tags(parent)["mlflow.note.content"].startswith("**b beats a by 0.2**")
    assert database.rows("select count(*) from metrics") == before
    finished.report("b beats a by 0.1")
    assert sync_campaign(finished.dir, said.append)


def test_the_parent_and_the_view_are_there_before_any_run(conduct: Conduct, database: Database):
    campaign = conduct(["a"], [1], experiment="early")
    tracking.prepare_campaign(campaign.dir)
    (parent,) = database.runs(campaign.dir)
    assert database.status(parent) == "RUNNING"
    query = "select key from experiment_tags join experiments using (experiment_id) where name = 'early'"
    assert (view.TAG + view.campaign_view("abl", parent),) in database.rows(query)
    tracking.prepare_campaign(campaign.dir)
    assert database.runs(campaign.dir) == [parent]


def test_a_run_sent_by_itself_is_the_campaigns_too(conduct: Conduct, database: Database):
    """`retrain sync RUN` before any follower: it makes the parent, and the follower finds both."""
    campaign = conduct(["a"], [1])
    training = campaign.begin("a_s1").steps(1, 4)
    assert sync(training.dir, print)
    (parent,), (run,) = database.runs(campaign.dir), database.runs(training.dir)
    assert database.tags(run)["mlflow.parentRunId"] == parent
    with followed(campaign):
        training.steps(5, 9)
        wait_until(lambda: Sent.load(training.dir, "mlflow").step == 9)
        said: list[str] = []
        assert sync(training.dir, said.append)
        assert "a follower is sending" in said[0]
        finish(campaign, training)
        campaign.end()
    assert database.points(run) == expected(lines(1, 9))
    assert database.runs(campaign.dir) == [parent]


def test_runs_that_are_added_retried_and_resumed_are_followed_on(conduct: Conduct, database: Database):
    campaign = conduct(["a"], [1, 2])
    with followed(campaign):
        first = campaign.begin("a_s1").steps(1, 5)
        wait_until(lambda: Sent.load(first.dir, "mlflow").step == 5)
        first.end("failed")  # the supervisor tries again, so the manifest goes on saying "running"
        wait_until(lambda: Sent.load(first.dir, "mlflow").finished != "")
        first.resume(3).steps(4, 8)
        wait_until(lambda: Sent.load(first.dir, "mlflow").step == 8)
        finish(campaign, first, "failed")
        wait_until(lambda: not is_claimed(first.dir))  # let go: it costs nothing any more
        campaign.extend(["b"], [1])
        added = campaign.begin("b_s1").steps(1, 3)
        wait_until(lambda: Sent.load(added.dir, "mlflow").step == 3)
        campaign.mark("a_s1", state="running", attempts=3)
        first.resume(8).steps(9, 10)
        wait_until(lambda: Sent.load(first.dir, "mlflow").step == 10)
        finish(campaign, first)
        finish(campaign, added)
        campaign.end("interrupted")
    (run,), (other,) = database.runs(first.dir), database.runs(added.dir)
    points = expected(lines(1, 5) + lines(6, 8, attempt=1) + lines(9, 10, attempt=2))
    assert database.points(run) == points
    assert database.points(other) == expected(lines(1, 3))
    assert (database.status(run), database.status(other)) == ("FINISHED", "FINISHED")


def test_a_run_begun_anew_takes_the_place_of_the_one_put_aside(conduct: Conduct, database: Database):
    """As `--retry-failed` does: the directory is renamed, while the follower may still be at it."""
    campaign = conduct(["a"], [1])
    with followed(campaign):
        first = campaign.begin("a_s1").steps(1, 6)
        wait_until(lambda: Sent.load(first.dir, "mlflow").step == 6)
        (old,) = database.runs(first.dir)
        first.dir.rename(campaign.dir / "runs" / "a_s1.failed-1")
        second = campaign.begin("a_s1")
        second.attempt = 1
        second.steps(1, 4)
        wait_until(lambda: Sent.load(second.dir, "mlflow").step == 4)
        finish(campaign, second)
        campaign.end()
    (new,) = [run for run in database.runs(second.dir) if run != old]
    assert database.points(old) == expected(lines(1, 6))
    assert database.points(new) == expected(lines(1, 4, attempt=1))
    assert (database.tags(old)["retrain.kind"], database.tags(new)["retrain.kind"]) == ("replaced", "run")


def test_the_last_report_written_after_the_end_is_sent(
    conduct: Conduct, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(campaigns, "LINGER_SECONDS", 5.0)
    campaign = conduct(["a"], [1])
    with followed(campaign):
        training = campaign.begin("a_s1").steps(1, 2)
        wait_until(lambda: is_claimed(training.dir))
        finish(campaign, training)
        campaign.end()
        wait_until(lambda: Sent.load(campaign.dir, "mlflow").finished != "" and not is_claimed(training.dir))
        time.sleep(1.5)  # some looks later
        campaign.report("a is all there is")
    (parent,) = database.runs(campaign.dir)
    assert (database.artifacts(parent) / "report.html").read_text() == "<h1>a is all there is</h1>"


def test_a_resumed_campaign_goes_on_in_the_same_parent(conduct: Conduct, database: Database):
    campaign = conduct(["a"], [1, 2])
    finish(campaign, campaign.begin("a_s1").steps(1, 2))
    campaign.end("interrupted")
    with followed(campaign):
        pass
    (parent,) = database.runs(campaign.dir)
    assert database.status(parent) == "KILLED"
    campaign.resume()
    with followed(campaign):
        wait_until(lambda: database.status(parent) == "RUNNING")
        finish(campaign, campaign.begin("a_s2").steps(1, 2))
        campaign.end()
    assert database.runs(campaign.dir) == [parent]
    assert database.status(parent) == "FINISHED"


def test_a_campaign_whose_process_is_gone_is_over(conduct: Conduct, database: Database):
    campaign = conduct(["a"], [1, 2])
    campaign.begin("a_s1").steps(1, 3).die()
    campaign.values["process_start"] -= 1
    campaign.write()
    with followed(campaign):
        pass
    (parent,) = database.runs(campaign.dir)
    assert database.status(parent) == "KILLED"
    (run,) = database.runs(campaign.dir / "runs" / "a_s1")
    assert database.status(run) == "KILLED"
    assert tracking.pending(campaign.dir) == []


def test_a_damaged_run_stops_no_other(conduct: Conduct, database: Database, caplog: pytest.LogCaptureFixture):
    campaign = conduct(["a"], [1, 2])
    broken, sound = campaign.begin("a_s1"), campaign.begin("a_s2").steps(1, 3)
    (broken.dir / "run.json").write_text("{")
    finish(campaign, sound)
    campaign.end()
    with followed(campaign):
        pass
    (run,) = database.runs(sound.dir)
    assert database.points(run) == expected(lines(1, 3))
    assert "a_s1 is left out" in caplog.text
    (behind,) = tracking.pending(campaign.dir)
    assert "run.json" in behind.problem


def test_a_second_follower_of_a_campaign_leaves_quietly(conduct: Conduct):
    campaign = conduct(["a"], [1])
    with claim(campaign.dir, 0):
        follow_campaign(campaign.dir)
        said: list[str] = []
        assert not sync_campaign(campaign.dir, said.append)
    assert "a follower is sending" in said[0]


def test_a_campaign_without_a_tracker_still_gets_its_figures(tmp_path: Path):
    campaign = Campaign(tmp_path / "off", "none", ["a"], [1])
    training = campaign.begin("a_s1").steps(1, 5)
    with followed(campaign):
        finish(campaign, training)
        campaign.end()
    assert (training.dir / "plots" / "reward.png").exists()
    assert tracking.pending(campaign.dir) == []


def test_what_is_no_campaign_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not a campaign"):
        follow_campaign(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(ConfigError, match="has format 9, this version reads 1"):
        sync_campaign(tmp_path, print)
