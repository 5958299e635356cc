"""A campaign as a whole, on toy runs in real processes: what became of each is on record, what is missing is done."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from retrain import tracking
from retrain.campaign import conduct, plan
from retrain.campaign.manifest import Manifest, RunEntry, newest_unfinished
from retrain.cli.main import main
from retrain.errors import ConfigError, Incomplete, Interrupted
from retrain.store import RunLock, read_metrics
from tests.campaign.processes import HERE, marked, new_mark, until

FAULTS = ("raise", "exit", "kill", "hang", "memory", "none")
TOML = """
[backend]
backend = "toy_backend:Toy"
[training]
max_steps = 5
save_every = 1
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
    f"[[campaign.conditions]]\nname = '{fault}'\nlr = {number + 1}e-5\n"
    f"overrides = ['backend.options.fault={'' if fault == 'none' else fault}']\n"
    for number, fault in enumerate(FAULTS)
)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Put the toy backend beside the TOML. Returns (heal, mark): heal() takes the cause of all faults away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    shutil.copy(HERE / "toy_backend.py", tmp_path)
    mark = new_mark()
    monkeypatch.setenv("TOY_MARK", mark)
    return lambda: monkeypatch.setenv("TOY_HEALTHY", "1"), mark


def nobody(directory, manifest):
    """Watch nothing."""


def planned(text=TOML + CONDITIONS, *arguments):
    Path("abl.toml").write_text(text)
    return plan.make(Path("abl.toml"), arguments)


def states(root=Path("root")):
    return {run.label: run.state for run in Manifest.read(root).runs}


def test_of_six_runs_five_fail_each_in_its_way_and_resuming_completes_those_alone(toys, capsys):
    heal, mark = toys
    Path("abl.toml").write_text(TOML + CONDITIONS)
    assert main(["abl.toml"]) == 3
    said = capsys.readouterr()
    assert said.out == "root\n"
    assert "error: 5 of 6 runs are not done" in said.err
    found = {run.label: run for run in Manifest.read(Path("root")).runs}
    assert states() == {**dict.fromkeys(FAULTS, "failed"), "none": "done"}
    assert "the cause" in found["raise"].exit_reason
    assert "7" in found["exit"].exit_reason
    assert "SIGKILL" in found["kill"].exit_reason
    assert "progress" in found["hang"].exit_reason
    assert "Memory" in found["memory"].exit_reason
    assert until(lambda: not marked(mark)), "nothing is orphaned"
    before = Path("root/runs/none_s1/run.json").stat().st_mtime_ns
    heal()
    assert main(["resume", "root"]) == 0
    assert set(states().values()) == {"done"}
    assert Manifest.read(Path("root")).state == "done"
    assert Path("root/runs/none_s1/run.json").stat().st_mtime_ns == before
    for label in FAULTS:
        assert [line["step"] for line in read_metrics(Path(f"root/runs/{label}_s1"))] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="all of its 6 runs are done"):
        conduct.go_on(Path("root"), nobody)


def test_failed_runs_begin_anew_when_that_is_asked_for(toys):
    heal, _ = toys
    with pytest.raises(Incomplete):
        conduct.start(planned(TOML + CONDITIONS, "condition=raise"), nobody)
    heal()
    conduct.go_on(Path("root"), nobody, retry_failed=True)
    assert len(read_metrics(Path("root/runs/raise_s1.failed-1"))) == 2
    assert len(read_metrics(Path("root/runs/raise_s1"))) == 5


def test_ctrl_c_ends_the_runs_cleanly_and_what_is_missing_is_done_later(toys, monkeypatch):
    heal, mark = toys
    heal()
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
    monkeypatch.delenv("TOY_SECONDS")
    conduct.go_on(Path("root"), nobody)
    assert set(states().values()) == {"done"}


def test_a_campaign_whose_parent_was_killed_is_completed(toys):
    heal, mark = toys
    heal()
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
    heal, _ = toys
    heal()
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
    heal, _ = toys
    heal()
    conduct.start(planned(TOML + CONDITIONS, "condition=none"), nobody)
    lock = RunLock.take(Path("root"))
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        conduct.go_on(Path("root"), nobody)
    lock.release()


def test_an_unknown_launcher_starts_nothing(toys, tmp_path):
    with pytest.raises(ConfigError, match="submitit_slurmm"):
        conduct.start(planned(TOML + CONDITIONS, "campaign.launcher=submitit_slurmm"), nobody)
    assert not (tmp_path / "root").exists()


def test_a_resumed_campaign_does_not_tell_the_ends_of_earlier_attempts_again(toys, capsys):
    heal, _ = toys
    Path("abl.toml").write_text(TOML + CONDITIONS)
    assert main(["abl.toml", "condition=raise,exit,none", "campaign.max_workers=1"]) == 3
    assert "raise_s1 · failed" in capsys.readouterr().err
    heal()
    assert main(["resume", "root"]) == 0
    said = capsys.readouterr().err
    assert "2 of 3 runs to do" in said
    assert "failed" not in said
    assert "raise_s1 · done · step 5/5" in said


def test_a_run_whose_turn_did_not_come_again_is_as_it_was(toys, monkeypatch):
    with pytest.raises(Incomplete):
        conduct.start(planned(TOML + CONDITIONS, "condition=raise,kill", "campaign.max_workers=1"), nobody)
    seen = []

    def interrupt(directory, manifest):
        seen.append({run.label: run.state for run in manifest.runs})
        if "running" in seen[-1].values():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        conduct.go_on(Path("root"), interrupt)
    assert seen[0] == {"raise": "planned", "kill": "planned"}
    assert states()["kill"] == "failed"
    assert "SIGKILL" in {run.label: run for run in Manifest.read(Path("root")).runs}["kill"].exit_reason


def test_an_extension_does_what_is_new_or_was_interrupted_and_leaves_what_failed(toys, capsys):
    heal, _ = toys
    text = TOML + CONDITIONS
    with pytest.raises(Incomplete):
        conduct.start(planned(text, "condition=raise,kill,none"), nobody)
    heal()
    manifest = Manifest.read(Path("root"))
    manifest.with_run("none_s1", state="interrupted").write(Path("root"))
    record = Path("root/runs/none_s1/run.json")
    record.write_text(record.read_text().replace('"done"', '"interrupted"'))
    Path("root/runs/none_s1/exit.json").unlink()
    Path("abl.toml").write_text(text.replace("seeds = [1]", "seeds = [1, 2]"))
    assert main(["abl.toml", "--extend", "root", "condition=raise,none"]) == 3
    found = {run.name: run.state for run in Manifest.read(Path("root")).runs}
    assert found == {
        "raise_s1": "failed", "kill_s1": "failed", "none_s1": "done", "raise_s2": "done", "none_s2": "done",
    }  # fmt: skip
    assert [line["step"] for line in read_metrics(Path("root/runs/raise_s1"))] == [1, 2]
    assert "kill_s1: killed by SIGKILL" in capsys.readouterr().err
    assert main(["abl.toml", "--extend", "root", "condition=raise,none"]) == 2
    assert "nothing is new or was interrupted in root, and 2 of its 5 runs failed" in capsys.readouterr().err
    assert main(["abl.toml", "--extend", "root", "condition=raise,none", "--retry-failed"]) == 0
    assert set(states().values()) == {"done"}
    assert Path("root/runs/kill_s1.failed-1").is_dir(), "a run that was killed has failed too"


def test_a_flag_may_stand_before_the_name_of_what_is_resumed(toys, capsys):
    heal, _ = toys
    with pytest.raises(Incomplete):
        conduct.start(planned(TOML + CONDITIONS, "condition=raise"), nobody)
    heal()
    assert main(["resume", "--retry-failed", "root"]) == 0
    assert Path("root/runs/raise_s1.failed-1").is_dir()
    assert main(["resume", "--retry-failed", "root/runs/raise_s1"]) == 2
    assert "--retry-failed is for campaigns, and root/runs/raise_s1 is one run" in capsys.readouterr().err
    assert main(["resume", "--yes", "root"]) == 2
    assert "--yes is not a flag of retrain resume" in capsys.readouterr().err
