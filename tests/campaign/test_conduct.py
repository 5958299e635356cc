"""A campaign as a whole, on toy runs in real processes: what became of each is on record, what is missing is done."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from retrain import tracking
from retrain.campaign import conduct, plan
from retrain.campaign.manifest import Manifest, RunEntry, newest_unfinished
from retrain.errors import ConfigError, Incomplete, Interrupted
from retrain.store import RunLock, read_metrics
from tests.campaign.processes import TOY, marked, new_mark, python, until

FAULTS = ("raise", "exit", "kill", "hang", "memory", "none")
TOML = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[health]
stall_timeout = 1.0
[logging]
tracking_uri = "none"
log_dir = "root"
[campaign]
seeds = [1]
max_workers = 3
max_retries = 0
"""
CONDITIONS = "".join(
    f"[[campaign.conditions]]\nname = '{fault}'\nlr = {number + 1}e-5\n" for number, fault in enumerate(FAULTS)
)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Let every run be a toy; its condition's name is its fault, unless `healthy` is set. Returns (healthy, mark)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    healthy, mark, order = threading.Event(), new_mark(), conduct._order

    def toy(root, manifest, run):
        fault = "" if healthy.is_set() or run.label == "none" else run.label
        environment = {"TOY_FAULT": fault, "TOY_MARK": mark, "TOY_SECONDS": os.environ.get("TOY_SECONDS", "0.05")}
        command = (
            *python("import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"),
            str(TOY),
        )
        return replace(order(root, manifest, run), environment=environment, command=command)

    monkeypatch.setattr(conduct, "_order", toy)
    return healthy, mark


def nobody(directory, manifest):
    """Watch nothing."""


def planned(text=TOML + CONDITIONS, *arguments):
    Path("abl.toml").write_text(text)
    return plan.make(Path("abl.toml"), arguments)


def states(root=Path("root")):
    return {run.label: run.state for run in Manifest.read(root).runs}


def test_of_six_runs_five_fail_each_in_its_way_and_resuming_completes_those_alone(toys):
    healthy, mark = toys
    with pytest.raises(Incomplete, match="5 of 6 runs are not done") as ended:
        conduct.start(planned(), nobody)
    assert ended.value.exit_code == 3
    found = {run.label: run for run in Manifest.read(Path("root")).runs}
    assert states() == {**dict.fromkeys(FAULTS, "failed"), "none": "done"}
    assert "the cause" in found["raise"].exit_reason
    assert "7" in found["exit"].exit_reason
    assert "SIGKILL" in found["kill"].exit_reason
    assert "progress" in found["hang"].exit_reason
    assert "Memory" in found["memory"].exit_reason
    assert until(lambda: not marked(mark)), "nothing is orphaned"
    before = Path("root/runs/none_s1/run.json").stat().st_mtime_ns
    healthy.set()
    assert conduct.go_on(Path("root"), nobody) == Path("root")
    assert set(states().values()) == {"done"}
    assert Manifest.read(Path("root")).state == "done"
    assert Path("root/runs/none_s1/run.json").stat().st_mtime_ns == before
    for label in FAULTS:
        assert [line["step"] for line in read_metrics(Path(f"root/runs/{label}_s1"))] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="all of its 6 runs are done"):
        conduct.go_on(Path("root"), nobody)


def test_failed_runs_begin_anew_when_that_is_asked_for(toys):
    healthy, _ = toys
    with pytest.raises(Incomplete):
        conduct.start(planned(TOML + CONDITIONS, "condition=raise"), nobody)
    healthy.set()
    conduct.go_on(Path("root"), nobody, retry_failed=True)
    assert len(read_metrics(Path("root/runs/raise_s1.failed-1"))) == 2
    assert len(read_metrics(Path("root/runs/raise_s1"))) == 5


def test_ctrl_c_ends_the_runs_cleanly_and_what_is_missing_is_done_later(toys, monkeypatch):
    healthy, mark = toys
    healthy.set()
    monkeypatch.setenv("TOY_SECONDS", "0.5")

    def interrupt(directory, manifest):
        if not sent and any(len(read_metrics(directory / run.directory)) >= 2 for run in manifest.runs):
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    sent = []
    with pytest.raises(Interrupted, match="stopped by SIGINT; 6 runs are missing"):
        conduct.start(planned(), interrupt)
    assert set(states().values()) <= {"interrupted", "planned"}
    assert Manifest.read(Path("root")).state == "interrupted"
    assert until(lambda: not marked(mark))
    assert newest_unfinished("abl", Path("abl.toml").resolve(), "root") == Path("root")
    monkeypatch.setenv("TOY_SECONDS", "0")
    conduct.go_on(Path("root"), nobody)
    assert set(states().values()) == {"done"}


def test_a_campaign_whose_parent_was_killed_is_completed(toys):
    healthy, mark = toys
    healthy.set()
    child = os.fork()
    if child == 0:
        os.environ["TOY_SECONDS"] = "0.3"
        conduct.start(planned(), nobody)
        os._exit(0)
    started = Path("root/runs/raise_s1")
    assert until(lambda: len(read_metrics(started)) >= 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert until(lambda: not marked(mark)), "the runs die with it"
    assert Manifest.read(Path("root")).is_alive() is False
    conduct.go_on(Path("root"), nobody)
    assert set(states().values()) == {"done"}


def test_seeds_and_conditions_are_added_and_a_changed_condition_is_refused_by_its_keys(toys):
    healthy, _ = toys
    healthy.set()
    two = TOML + "[[campaign.conditions]]\nname = 'a'\nlr = 1e-5\n"
    conduct.start(planned(two), nobody)
    before = Path("root/runs/a_s1/run.json").stat().st_mtime_ns
    more = two.replace("[1]", "[1, 2]") + "[[campaign.conditions]]\nname = 'b'\nlr = 2e-5\n"
    conduct.go_on(Path("root"), nobody, plan=planned(more))
    assert [run.name for run in Manifest.read(Path("root")).runs] == ["a_s1", "a_s2", "b_s1", "b_s2"]
    assert [c["label"] for c in Manifest.read(Path("root")).conditions] == ["a", "b"]
    assert Path("root/runs/a_s1/run.json").stat().st_mtime_ns == before
    [look] = Manifest.read(Path("root")).looks  # the first end gave a verdict, and was none
    assert (look["done"], look["planned"]) == (1, 1)
    with pytest.raises(ConfigError, match=r"a_s1 is there already, with another training.lr"):
        conduct.go_on(Path("root"), nobody, plan=planned(more.replace("1e-5", "3e-5")))


def test_the_time_that_a_campaign_lay_idle_is_not_time_that_it_was_conducted(toys):
    manifest = planned().campaign  # any campaign's keys
    run = RunEntry(name="a_s1", label="a", seed=1, overrides=[], directory="runs/a_s1", key="", ended=130.0)
    first = Manifest(
        name="abl", source="", kind="campaign", campaign=vars(manifest), conditions=[], runs=[run], tracking_uri="none",
        experiment="x", places=[], cwd="", created=100.0, opened=100.0, ended=160.0, state="interrupted",
    )  # fmt: skip
    second = first.taken_over()  # much later
    assert second.active_seconds == 60.0
    assert second.opened > 1e9
    again = replace(second, opened=10_000.0, ended=10_040.0)
    assert again.conducted() == 100.0
    killed = replace(first, ended=None, state="running").taken_over()
    assert killed.active_seconds == 30.0  # up to the end of its last run


def test_a_campaign_that_is_being_conducted_is_refused(toys):
    healthy, _ = toys
    healthy.set()
    conduct.start(planned(TOML + CONDITIONS, "condition=none"), nobody)
    lock = RunLock.take(Path("root"))
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        conduct.go_on(Path("root"), nobody)
    lock.release()


def test_an_unknown_launcher_starts_nothing(toys, tmp_path):
    with pytest.raises(ConfigError, match="submitit_slurmm"):
        conduct.start(planned(TOML + CONDITIONS, "campaign.launcher=submitit_slurmm"), nobody)
    assert not (tmp_path / "root").exists()
