"""Which run a reference means, and what has become of it, whatever its files hold."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrain.errors import ConfigError
from retrain.references import find_run, runs_under
from retrain.runs import newest_unfinished, state_of
from retrain.store import RunRecord, process_start

NOW = 1_800_000_000.0
LINES = [{"step": s, "time": NOW - 1000 + 10 * s, "reward/mean": s / 100} for s in range(1, 31)]


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Runs of three TOMLs; mini's newest is not the last by name, so that names cannot stand in for times."""
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(["mini/2025-01-01_a", "mini/2025-03-03_c", "mini/2025-02-02_b", "maths/2025-04-04"]):
        make("outputs/" + run, started=100.0 + number)
    Path("outputs/mini/latest").symlink_to("2025-02-02_b", target_is_directory=True)
    Path("outputs/empty").mkdir()


def make(path, started):
    Path(path).mkdir(parents=True)
    Path(path, "run.json").write_text(json.dumps({"started": started}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs/mini/2025-01-01_a", "mini/2025-01-01_a"),
        ("outputs/mini/latest", "mini/latest"),
        ("outputs/mini", "mini/2025-02-02_b"),
        ("mini", "mini/2025-02-02_b"),
        ("mini@-1", "mini/2025-02-02_b"),
        ("mini@-2", "mini/2025-03-03_c"),
        ("mini@-3", "mini/2025-01-01_a"),
        ("min", "mini/2025-02-02_b"),
        ("mini/2025-01", "mini/2025-01-01_a"),
        ("2025-03", "mini/2025-03-03_c"),
        ("2025-04", "maths/2025-04-04"),
        ("latest", "maths/2025-04-04"),
    ],
)
def test_a_reference_finds_its_run(text, expected):
    assert find_run(text) == Path("outputs", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m", "fits 4 runs; write more of it"),
        ("2025", "fits 4 runs"),
        ("mini@-4", "there are only 3 such runs"),
        ("mnii", 'did you mean "mini"?'),
        ("zzz", "there is no run zzz"),
        ("empty", "there is no run empty"),
    ],
)
def test_a_reference_that_means_no_single_run_is_an_error(text, expected):
    with pytest.raises(ConfigError, match="run") as caught:
        find_run(text)
    assert expected in str(caught.value)


def test_a_run_outside_outputs_is_found_by_its_path(tmp_path):
    make("logs/mini", started=1.0)
    assert find_run("logs/mini") == Path("logs/mini")
    assert find_run(str(tmp_path / "logs" / "mini")) == tmp_path / "logs" / "mini"


def test_without_any_outputs_the_error_says_where_was_looked(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no folder outputs here"):
        find_run("mini")


def test_a_whole_name_means_its_run_even_where_another_begins_with_it():
    make("outputs/mini/2025-01-01_a-2", started=500.0)
    assert find_run("mini/2025-01-01_a") == Path("outputs/mini/2025-01-01_a")


def test_what_is_inside_a_run_is_no_run_and_is_not_looked_at(monkeypatch):
    """A run with thousands of files of completions must not cost as many looks."""
    make("outputs/mini/2025-01-01_a/checkpoints/step-2", started=900.0)
    make("outputs/sweep/t/runs/hot_s42", started=1.0)
    looked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: looked.append(str(path)) or scandir(path))
    found = [str(run.relative_to("outputs")) for run in runs_under(Path("outputs"))]
    assert found[0] == "sweep/t/runs/hot_s42"
    assert len(found) == 5
    assert not any("2025-01-01_a" in path for path in looked)


def test_a_damaged_run_json_does_not_hide_the_other_runs():
    Path("outputs/mini/2025-01-01_a/run.json").write_text("{")
    assert find_run("maths") == Path("outputs/maths/2025-04-04")


# --- state ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gone():
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"pid": process.pid, "process_start": 1.0}


def run_at(path, lines=LINES, *, beat=None, written=0.0, tail="", config="", **changes):
    """Make a run; `beat`: seconds since its last progress, None for no heartbeat; `written`: since its files were."""
    folder = Path(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = {"name": "mini a", "seed": 1, "steps_done": 30, "max_steps": 100, "started": NOW - 1000}
    RunRecord(**values | changes).write(folder)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    (folder / "config.toml").write_text(config)
    if beat is not None:
        heart = {"phase": "generate", "since": NOW - 60, "step": 30, "beat": NOW - beat, "stalled": False, "stacks": ""}
        (folder / "heartbeat.json").write_text(json.dumps(heart))
    for file in folder.iterdir():
        os.utime(file, (NOW - written, NOW - written))
    return folder


ELSEWHERE = {"host": "another-machine"}


@pytest.mark.parametrize(
    ("beat", "changes", "state"),
    [
        (10, {}, "running"),
        (1700, {}, "running"),
        (1900, {"lines": []}, "running"),  # it has begun 1000 s ago, which is a sign of life too
        (1900, {"lines": [], "started": NOW - 2000}, "stalled"),
        (200, {"lines": [], "started": NOW - 2000, "config": "[health]\nstall_timeout = 100.0"}, "stalled"),
        (200, {"lines": [], "config": '[health]\nstall_timeout = "${x.y}"'}, "running"),
        (1700, ELSEWHERE, "running"),
        (1700, ELSEWHERE | {"written": 170}, "running"),
        (10, ELSEWHERE | {"written": 190}, "stalled"),
        (1900, ELSEWHERE | {"lines": [], "started": NOW - 2000}, "stalled"),
        (10, {"state": "done", "ended": NOW}, "done"),
        (10, {"state": "failed", "ended": NOW}, "failed"),
        (10, {"state": "interrupted", "ended": NOW}, "interrupted"),
    ],
)
def test_a_state_follows_from_the_record_the_process_and_the_last_sign_of_life(beat, changes, state):
    assert state_of(run_at("r", beat=beat, **changes), NOW).state == state


def test_a_run_whose_process_is_gone_was_killed(gone):
    found = state_of(run_at("r", beat=300, **gone), NOW)
    assert (found.state, found.ended, found.eta_seconds, found.phase_seconds) == ("interrupted", NOW - 300, None, None)
    assert found.cause.startswith(f"killed: process {gone['pid']} is gone since about 20")
    assert "in phase generate" in found.cause


def test_a_run_that_ends_while_it_is_looked_at_is_not_taken_for_killed(monkeypatch):
    folder = run_at("r", beat=1)

    def ends(record):
        run_at("r", beat=1, state="done", ended=NOW)
        return False

    monkeypatch.setattr(RunRecord, "is_alive", ends)
    found = state_of(folder, NOW)
    assert (found.state, found.ended, found.cause) == ("done", NOW, "")


def test_a_new_process_with_the_old_pid_is_not_the_run():
    assert state_of(run_at("r", process_start=(process_start(os.getpid()) or 0) + 1), NOW).state == "interrupted"


def test_the_watchdog_s_word_counts_and_its_stacks_are_named():
    folder = run_at("r", beat=5)
    heart = json.loads((folder / "heartbeat.json").read_text())
    (folder / "heartbeat.json").write_text(json.dumps({**heart, "stalled": True, "stacks": "stacks.txt"}))
    (folder / "stacks.txt").write_text("Thread 1")
    found = state_of(folder, NOW)
    assert (found.state, found.stacks, found.eta_seconds) == ("stalled", "stacks.txt", None)
    assert "in phase generate; what each thread does is in r/stacks.txt" in found.cause


def test_pace_and_time_left_stand_one_long_step_and_count_down_within_a_step():
    """Steps of 10 s, one of an hour: the median stays 10 s. The last line is 4 s old, 70 steps are left."""
    lines = [{**line, "time": NOW - 304 + 10 * line["step"] - (3600 if line["step"] < 20 else 0)} for line in LINES]
    found = state_of(run_at("r", lines, beat=1), NOW)
    assert (found.seconds_per_step, found.eta_seconds) == (10.0, 70 * 10 - 4)
    assert (found.phase, found.phase_seconds) == ("generate", 60.0)


def test_a_clock_that_was_set_back_gives_no_negative_times():
    lines = [{**line, "time": NOW + 5000 - (9000 if line["step"] > 25 else 0)} for line in LINES]
    found = state_of(run_at("r", lines, beat=-500), NOW - 1000)
    assert found.seconds_per_step == 0.0
    assert (found.eta_seconds, found.phase_seconds) == (0.0, 0.0)
    assert (
        state_of(run_at("r", [{"step": 1, "time": NOW}, {"step": 2, "time": NOW - 60}]), NOW).seconds_per_step is None
    )


def test_scores_come_from_the_last_lines_that_have_them():
    evaluation = {"step": 0, "time": NOW, "eval/score": 0.25}
    found = state_of(run_at("r", [evaluation]), NOW)
    assert (found.steps_done, found.reward, found.eval_score, found.eval_step) == (0, None, 0.25, 0)
    lines = [evaluation, *LINES[:9], {**LINES[9], "eval/score": 0.5}, *LINES[10:], {"step": 31, "time": NOW}]
    found = state_of(run_at("r", lines, best={"step": 10, "score": 0.5}), NOW)
    assert (found.steps_done, found.reward, found.eval_score, found.eval_step) == (31, 0.3, 0.5, 10)
    assert (found.best_score, found.best_step) == (0.5, 10)


def test_an_evaluation_far_back_is_found_and_only_the_end_of_a_long_file_is_read():
    long = [{"step": s, "time": NOW + s, "reward/mean": 0.5, "note": "x" * 2000} for s in range(1, 400)]
    lines = [{"step": 0, "time": NOW, "eval/score": 0.25}, *long]
    found = state_of(run_at("r", lines, best={"step": 0, "score": 0.25}), NOW)
    assert (found.steps_done, found.eval_step, found.eval_score) == (399, 0, 0.25)
    assert state_of(run_at("r", lines), NOW).eval_score is None  # no evaluation on record: not looked for
    folder = run_at("r", lines)
    with (folder / "metrics.jsonl").open("r+b") as handle:
        handle.write(b"\xff" * 1000)  # what is not read cannot harm
    assert state_of(folder, NOW).steps_done == 399


@pytest.mark.parametrize(
    "tail",
    ['{"step": 31, "ti', '{"step": 31, "time": 9.0}', "null\n", '{"step": "x"}\n', "\x00\x00\n", "[1]\n{]\n", "\n\n"],
)
def test_torn_and_foreign_lines_are_skipped(tail):
    found = state_of(run_at("r", tail=tail, beat=1), NOW)
    assert (found.state, found.steps_done, found.reward) == ("running", 30, 0.3)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99}', "\udcff", "null"])
def test_a_damaged_record_is_a_state_with_its_reason(text):
    folder = run_at("outputs/bad/a")
    (folder / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    found = state_of(folder, NOW)
    assert found.state == "damaged"
    assert "run.json" in found.cause
    assert newest_unfinished("bad", Path("mini.toml")) is None


@pytest.mark.parametrize("changes", [{"started": "now"}, {"max_steps": None}, {"problems": 3}, {"best": [1]}])
def test_a_value_of_another_type_is_damage_that_is_named(changes):
    found = state_of(run_at("r", **changes), NOW)
    assert found.state == "damaged"
    assert f"{next(iter(changes))} is" in found.cause


def test_missing_and_damaged_files_beside_the_record_only_leave_gaps():
    folder = run_at("r", beat=1)
    for name in ("metrics.jsonl", "config.toml"):
        (folder / name).unlink()
    (folder / "heartbeat.json").write_text("[3")
    found = state_of(folder, NOW)
    assert (found.state, found.steps_done, found.reward, found.phase) == ("running", 30, None, "")


def test_the_cause_is_the_reason_or_the_last_rule_that_is_still_broken():
    reason = "\nloss is nan at step 7\n  retrain debug-batch x"
    assert state_of(run_at("r", state="failed", exit_reason=reason), NOW).cause == "loss is nan at step 7"
    problems = [
        {"rule": "truncation", "step": 3, "message": "62% are cut", "hint": "", "evidence": {}, "until": None},
        {"rule": "duplicates", "step": 9, "message": "90% are equal", "hint": "", "evidence": {}, "until": 20},
    ]
    found = state_of(run_at("r", problems=problems, beat=1), NOW)
    assert (found.cause, found.problems) == ("truncation: 62% are cut", problems[:1])
    assert state_of(run_at("r", problems=problems[1:], beat=1), NOW).cause == ""
    both = state_of(run_at("r", problems=[*problems[:1], {**problems[1], "until": None}], beat=1), NOW)
    assert both.cause == "duplicates: 90% are equal (and 1 more)"


# --- --resume auto --------------------------------------------------------------------------------------------------


def test_auto_finds_the_newest_run_of_this_toml_that_has_ended_unfinished(gone):
    source = Path("mini.toml").resolve()
    ours = {"source": str(source), "ended": NOW}
    run_at("outputs/mini/1", started=1.0, state="interrupted", **ours)
    run_at("outputs/mini/2", started=2.0, state="failed", **ours)
    assert newest_unfinished("mini", Path("mini.toml")) == Path("outputs/mini/2")
    run_at("outputs/mini/3", started=3.0, state="done", **ours)
    run_at("outputs/mini/4", started=4.0, state="failed", source="/elsewhere/mini.toml")
    run_at("outputs/mini/5", started=5.0, source=str(source))
    assert newest_unfinished("mini", source) == Path("outputs/mini/2")
    run_at("outputs/mini/6", started=6.0, source=str(source), **gone)
    assert newest_unfinished("mini", source) == Path("outputs/mini/6")
    assert newest_unfinished("maths", source) is None


def test_auto_takes_a_run_of_another_machine_only_when_it_writes_nothing_any_more():
    """A stalled process is alive and holds the run. Times are today's, for nobody gives auto a clock."""
    folder = run_at("outputs/mini/7", source=str(Path("mini.toml").resolve()), **ELSEWHERE)
    (folder / "heartbeat.json").write_text(json.dumps({"beat": time.time() - 9000, "stalled": True}))
    assert newest_unfinished("mini", Path("mini.toml")) is None
    for file in folder.iterdir():
        os.utime(file, (time.time() - 200, time.time() - 200))
    assert newest_unfinished("mini", Path("mini.toml")) == folder


def test_auto_takes_the_run_of_the_same_slurm_job_at_once_when_it_was_requeued(monkeypatch):
    source = str(Path("mini.toml").resolve())
    folder = run_at("outputs/mini/9", source=source, slurm={"job": "7", "restarts": "0"}, **ELSEWHERE)
    assert newest_unfinished("mini", Path("mini.toml")) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert newest_unfinished("mini", Path("mini.toml")) is None, "another node of the same start"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert newest_unfinished("mini", Path("mini.toml")) == folder


def test_a_lost_run_of_another_machine_says_where_to_look():
    found = state_of(run_at("r", written=500, **ELSEWHERE), NOW)
    assert "look on another-machine whether process" in found.cause


def test_auto_looks_where_log_dir_has_put_the_runs():
    ours = {"source": str(Path("mini.toml").resolve()), "state": "interrupted"}
    run_at("outputs/mini/8", started=99.0, **ours)
    run_at("logs/m", started=1.0, **ours)
    run_at("logs/m-2", started=3.0, **ours)
    run_at("logs/m-10", started=2.0, **ours)
    run_at("logs/m-old", started=9.0, **ours)
    assert newest_unfinished("mini", Path("mini.toml"), "logs/m") == Path("logs/m-2")
    assert newest_unfinished("mini", Path("mini.toml"), "logs/n") is None
