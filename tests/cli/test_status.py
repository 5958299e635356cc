"""`retrain status`: the table, one run, --watch, --json, and what it may import."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from retrain.cli import status, status_view
from retrain.cli.main import main
from retrain.runs import state_of
from retrain.store import RunRecord

HEAVY = ["torch", "transformers", "mlflow", "pyarrow", "hydra", "omegaconf", "rich", "numpy"]
TROUBLE = {
    "rule": "truncation",
    "step": 12,
    "message": "62% of the completions were cut",
    "hint": "--max-tokens 4096",
    "evidence": {"completion/truncated_rate": 0.62},
    "until": None,
}


def make(path, **changes):
    """A run of 100 steps, 20 of them done, 10 s each; it began 300 s ago."""
    folder, now = Path(path), time.time()
    folder.mkdir(parents=True)
    values = {"name": f"run {folder.name}", "seed": 1, "steps_done": 20, "max_steps": 100, "started": now - 300}
    RunRecord(**values | changes).write(folder)
    lines = [{"step": 0, "time": now - 290, "eval/score": 0.25}]
    lines += [
        {"step": s, "time": now - 204 + 10 * s, "reward/mean": 0.5, "reward/correct_rate": 0.375} for s in range(1, 21)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    heart = {"phase": "generate", "since": now - 61.2, "step": 20, "beat": now - 1, "stalled": False, "stacks": ""}
    (folder / "heartbeat.json").write_text(json.dumps(heart))
    return folder


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    now = time.time()
    make("outputs/mini/1", started=now - 4000, state="done", ended=now - 400, steps_done=100)
    make("outputs/mini/2", started=now - 3000, state="failed", ended=now - 400, exit_reason="loss is nan\nat length")
    make("outputs/mini/3", started=now - 2000, pid=2**22 + 7, process_start=1.0)
    make("outputs/maths/4", started=now - 300)
    return tmp_path / "outputs"


@pytest.fixture
def terminal(monkeypatch):
    """Make stdout a terminal of so many columns; what it has shown is in its value."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def reconfigure(self, **_):
            pass

    def of(width):
        monkeypatch.setenv("COLUMNS", str(width))
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        return screen

    return of


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_has_the_newest_first_and_a_cause_and_a_command_under_those_in_trouble(outputs, capsys):
    assert main(["status"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == list(status_view.COLUMNS)
    assert re.split(r"\s{2,}", lines[1]) == [
        "maths/4", "running", "20/100", "generate 1:01", "0.500", "38%", "0.250", "13:16 left",
    ]  # fmt: skip
    assert lines[2].startswith("mini/3 ")
    assert lines[3].startswith(f"    killed: process {2**22 + 7} is gone since about ")
    assert lines[4] == "    retrain resume outputs/mini/3"
    assert [line.split()[:2] for line in lines[5:8]] == [["mini/2", "failed"], ["loss", "is"], ["retrain", "resume"]]
    assert re.split(r"\s{2,}", lines[8])[-1] == "took 1:00:00"
    assert len(lines) == 9
    assert "\x1b" not in out + err


def test_a_broken_rule_is_under_the_run_with_its_hint(outputs, capsys):
    make("outputs/mini/5", problems=[TROUBLE])
    assert main(["status", "outputs/mini"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["    truncation: 62% of the completions were cut", "    --max-tokens 4096"]


def test_a_stalled_run_says_how_to_end_it_and_go_on(outputs, capsys):
    folder = make("outputs/mini/5")
    heart = json.loads((folder / "heartbeat.json").read_text())
    (folder / "heartbeat.json").write_text(json.dumps({**heart, "stalled": True}))
    assert main(["status", "outputs/mini"]) == 0
    assert f"    kill {os.getpid()} and then retrain resume outputs/mini/5\n" in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 300])
def test_no_line_is_wider_than_the_terminal_and_columns_go_the_least_telling_first(outputs, terminal, width):
    make("outputs/a-rather-long-name-of-a-toml/2025-06-01_12-00-00")
    screen = terminal(width)
    assert main(["status"]) == 0
    lines = re.sub(r"\x1b\[\d+m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    shown = lines[0].split()
    assert shown[:3] == ["run", "state", "step"]
    kept = [name for name in status_view.COLUMNS if name not in status_view.DROPPED[: 8 - len(shown)]]
    assert shown == kept
    assert len(shown) == {40: 3, 60: 3, 300: 8}.get(width, len(shown))


def test_states_are_coloured_on_a_terminal_unless_no_color_is_set(outputs, terminal, monkeypatch):
    screen = terminal(120)
    assert main(["status"]) == 0
    assert "\x1b[31mfailed\x1b[0m" in screen.getvalue()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            screen = terminal(120)
            assert main(["status"]) == 0
            assert "\x1b" not in screen.getvalue()


def test_twenty_runs_are_listed_and_all_on_demand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(23):
        make(f"outputs/mini/{number:02}", state="done", ended=2.0, started=float(number))
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[1].split()[0], lines[-1]) == (22, "mini/22", "… 3 older: --all")
    assert main(["status", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 24
    assert main(["status", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 23


def test_what_a_reason_holds_cannot_steer_the_terminal_nor_break_the_table(outputs, capsys):
    make("outputs/mini/5", state="failed", ended=1.0, exit_reason="bad \x1b[31m\u202e\ttext\x07")
    make("outputs/mini/數學", state="done", ended=1.0)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "    bad ·[31m· text·\n" in out
    starts = {line.index("done") + line.count("數學") * 2 for line in out.splitlines() if " done " in line}
    assert len(starts) == 1  # a wide character takes two columns


def test_without_runs_it_says_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("no runs under outputs/ yet\n  retrain CONFIG.toml starts one")
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"campaigns": [], "runs": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["minx"], "there is no run minx"),
        (["."], "there is no run in empty"),
        (["--watch", "--json"], "take one of them"),
        (["--wach"], "did you mean --watch"),
    ],
)
def test_what_it_cannot_show_is_an_error(outputs, capsys, arguments, said):
    (outputs / "empty").mkdir()
    assert main(["status", *[a if a != "." else "outputs/empty" for a in arguments]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said.replace("empty", "outputs/empty") in err


# --- one run --------------------------------------------------------------------------------------------------------


def test_one_run_is_shown_with_its_problems_its_files_and_what_to_type(outputs, capsys):
    folder = make("outputs/mini/5", problems=[TROUBLE], best={"step": 0, "score": 0.25}, tracking_uri="sqlite:///x.db")
    for path in ("checkpoints/step-9", "checkpoints/step-10", "adapter-best", "rollouts"):
        (folder / path).mkdir(parents=True)
    assert main(["status", "mini"]) == 0
    out = capsys.readouterr().out
    for said in (
        "run 5\n",
        rf"  state +running, generate for 1:0\d \(process {os.getpid()} on .+\)\n",
        r"  steps +20 of 100, 10 s a step, 13:1\d left\n",
        r"  reward +0.500, 38% correct\n",
        r"  held-out +0.250 at step 0, best 0.250 at step 0\n",
        r"  tracker +mlflow has nothing of it yet\n",
        r"  checkpoint +outputs/mini/5/checkpoints/step-10\n",
        r"  best +outputs/mini/5/adapter-best\n",
        r"  truncation since step 12: 62% of the completions were cut\n    --max-tokens 4096\n",
        r"next:\n  retrain status outputs/mini/5 --watch +look on\n  retrain rollouts outputs/mini/5 ",
    ):
        assert re.search(said, out), said


def test_a_killed_run_in_detail_says_so_and_how_to_go_on(outputs, capsys):
    assert main(["status", "mini/3"]) == 0
    out = capsys.readouterr().out
    assert "likely cause of trouble:\n  killed: process" in out
    assert "next:\n  retrain resume outputs/mini/3  go on from its last checkpoint\n" in out


def test_several_references_are_listed_in_the_order_given_each_once(outputs, capsys):
    assert main(["status", "mini/2", "outputs/maths", "mini@-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["run", "mini/2", "maths/4"]


def test_a_damaged_run_is_listed_and_shown(outputs, capsys):
    (outputs / "maths" / "4" / "run.json").write_text("{")
    assert main(["status"]) == 0
    assert re.search(r"maths/4 +damaged .*\n    outputs/maths/4/run.json cannot be read", capsys.readouterr().out)
    assert main(["status", "maths"]) == 0
    assert "damaged" in capsys.readouterr().out


# --- for programs ---------------------------------------------------------------------------------------------------


def test_idle_time_is_told_apart_from_work_where_there_was_any():
    assert status_view.took(0.0, 3600.0, None) == "took 1:00:00"
    assert status_view.took(0.0, 3600.0, 3500.0) == "took 1:00:00"  # within a twentieth: saving, starting
    assert status_view.took(0.0, 7200.0, 3600.0) == "took 1:00:00 (2:00:00 from start to end)"
    assert status_view.took(0.0, 50.0, 10.0) == "took 0:50"


def test_json_is_one_document_whose_runs_all_have_the_same_keys(outputs, capsys):
    make("outputs/mini/5", problems=[{**TROUBLE, "evidence": {"policy/loss": float("nan")}}])
    assert main(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    states = {run["directory"]: run["state"] for run in document["runs"]}
    assert states == {
        "outputs/mini/5": "running",
        "outputs/maths/4": "running",
        "outputs/mini/3": "interrupted",
        "outputs/mini/2": "failed",
        "outputs/mini/1": "done",
    }
    assert all(set(run) == set(document["runs"][0]) for run in document["runs"])
    assert document["runs"][0]["problems"][0]["evidence"] == {"policy/loss": None}
    assert main(["status", "nowhere", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["message"].startswith("there is no run nowhere")


# --- again and again ------------------------------------------------------------------------------------------------


def test_news_are_the_runs_that_have_moved_on(outputs):
    seen = {}
    assert [line.split()[1] for line in status.news([], seen)] == ["mini/1", "mini/2", "mini/3", "maths/4"]
    assert status.news([], seen) == []
    with (outputs / "maths" / "4" / "metrics.jsonl").open("a") as handle:
        handle.write(json.dumps({"step": 21, "time": time.time(), "reward/mean": 0.75}) + "\n")
    [line] = status.news([], seen)
    assert "maths/4 · running · step 21/100 · generate · reward 0.750 · " in line


def test_a_frame_fits_the_screen_and_leaves_nothing_of_the_one_before(monkeypatch):
    monkeypatch.setenv("LINES", "5")
    footer = "\x1b[K\nCtrl-C ends this view, not the runs\x1b[K\n\x1b[J"
    assert status.frame("a\nb\nc\nd") == f"\x1b[Ha\x1b[K\nb\x1b[K\n{footer}"
    assert status.frame("a") == f"\x1b[Ha\x1b[K\n{footer}"


def test_a_watch_in_a_pipe_prints_what_moves_and_ends_with_ctrl_c(outputs):
    command = [sys.executable, "-m", "retrain.cli.main", "status", "--watch", "outputs/maths"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "maths/4 · running · step 20/100" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_watch_ends_at_once_when_its_reader_has_seen_enough(outputs):
    command = [sys.executable, "-m", "retrain.cli.main", "status", "--watch", "outputs/mini/1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "mini/1" in process.stdout.readline()
        process.stdout.close()
        late = threading.Timer(30, process.kill)
        late.start()
        assert process.wait() == 0, "nothing of that run will ever change"
        late.cancel()
        assert process.stderr.read() == ""


# --- what it costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["status"], ["status", "mini"], ["status", "--json"], ["status", "nowhere"]])
def test_it_imports_nothing_heavy(outputs, arguments):
    program = (
        "import sys, json; from retrain.cli.main import main; main(sys.argv[2:]); "
        f"json.dump([m for m in {HEAVY!r} if m in sys.modules], open(sys.argv[1], 'w'))"
    )
    command = [sys.executable, "-c", program, "seen.json", *arguments]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert json.loads(Path("seen.json").read_text()) == []


def test_the_phase_and_its_age_of_a_run_that_has_ended_are_how_long_ago_that_was(outputs):
    now = time.time()
    assert status_view.row(state_of(outputs / "mini" / "1", now), now)["doing"] == "7 min ago"
