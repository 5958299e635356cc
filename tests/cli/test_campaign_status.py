"""`retrain status` of campaigns: the list, the matrix, what is in trouble, --watch, --json, and references to them."""

import io
import json
import re
import sys
import time
from pathlib import Path

import pytest

from retrain.campaign.state import Curves, state_of_campaign
from retrain.cli import campaign_table, status
from retrain.cli.main import main
from retrain.cli.status_view import Style, columns
from retrain.errors import ConfigError
from retrain.references import campaign_of, entries_under, find_either, find_run
from retrain.runs import newest_unfinished
from tests.campaign_folder import GONE, make_campaign, make_run

MIXED = {"grpo+none": ["done", "running"], "maxrl+gtpo": ["failed", "planned"]}


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Two campaigns of abl.toml, the older one finished, and a run that belongs to none."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    now = time.time()
    done = {"grpo+none": ["done", "done"], "maxrl+gtpo": ["done", "done"]}
    make_campaign("outputs/abl/1", done, state="done", created=now - 9000, ended=now - 5000)
    make_campaign("outputs/abl/2", MIXED, created=now - 400)
    Path("outputs/abl/latest").symlink_to("2", target_is_directory=True)
    make_run("outputs/mini/3", state="done", started=now - 600, source="/mini.toml")
    return tmp_path / "outputs"


def shown(capsys, *arguments):
    assert main(["status", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# --- references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abl", "abl/2"),
        ("abl@-2", "abl/1"),
        ("abl/1", "abl/1"),
        ("outputs/abl/latest", "abl/latest"),
        ("latest", "abl/2"),
        ("mini", "mini/3"),
        ("ab", "abl/2"),
        ("outputs/abl/2/runs/grpo+none_s42", "abl/2/runs/grpo+none_s42"),
        ("abl/2/runs/grpo+none_s42", "abl/2/runs/grpo+none_s42"),
        ("abl/2/runs/max", "abl/2/runs/maxrl+gtpo_s42"),
    ],
)
def test_a_reference_finds_its_campaign_or_run(text, expected):
    assert find_either(text) == Path("outputs", expected)


def test_what_takes_a_run_finds_the_runs_of_campaigns_too_and_never_a_campaign():
    assert find_run("abl/2/runs/grpo+none_s101") == Path("outputs/abl/2/runs/grpo+none_s101")
    assert find_run("abl").parent == Path("outputs/abl/2/runs")
    with pytest.raises(ConfigError, match="there is no run nowhere"):
        find_either("nowhere")


def test_a_run_knows_its_campaign():
    assert campaign_of(Path("outputs/abl/latest/runs/grpo+none_s42")) == Path("outputs/abl/2").resolve()
    assert campaign_of(Path("outputs/mini/3")) is None


def test_runs_of_a_campaign_do_not_drown_single_runs():
    assert entries_under(Path("outputs")) == [Path("outputs", name) for name in ("abl/1", "mini/3", "abl/2")]


def test_resume_auto_of_a_run_leaves_the_runs_of_a_campaign_alone(tmp_path):
    source = tmp_path / "abl.toml"
    make_run("outputs/abl/2/runs/maxrl+gtpo_s42", state="failed", source=str(source))
    assert newest_unfinished("abl", source) is None
    make_run("outputs/abl/3", state="failed", source=str(source))
    assert newest_unfinished("abl", source) == Path("outputs/abl/3")


# --- the list -------------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_a_campaign_above_the_single_runs(capsys):
    lines = shown(capsys).splitlines()
    assert lines[0].split() == ["campaign", "state", "done", "failed", "running"]
    assert re.match(r"abl/2 +running +1/4 +1 +1 +\d+:\d\d left$", lines[1])
    assert lines[2] == "    maxrl+gtpo_s42 failed: no reason is recorded"
    assert lines[3] == "    retrain status outputs/abl/2 --watch"
    assert re.match(r"abl/1 +done +4/4 +- +- +took 1:06:40$", lines[4])
    assert [line.split()[0] for line in lines[5:] if line] == ["run", "mini/3"]
    assert "grpo+none_s42" not in "\n".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_of_the_list_is_wider_than_the_terminal(width):
    make_campaign("outputs/a-rather-long-name-of-a-toml/2025-06-01_12-00-00", MIXED)
    states = [state_of_campaign(one) for one in entries_under(Path("outputs")) if "mini" not in str(one)]
    assert max(map(columns, campaign_table.table(states, Style(width=width)).splitlines())) <= width


def test_a_campaign_that_was_killed_says_how_to_go_on(capsys):
    make_campaign("outputs/abl/3", MIXED, **GONE)
    lines = shown(capsys).splitlines()
    assert lines[1].split()[:2] == ["abl/3", "interrupted"]
    assert f"killed: process {GONE['pid']}, which conducted it, is gone; " in lines[2]
    assert lines[3] == "    retrain resume outputs/abl/3"


# --- one campaign ---------------------------------------------------------------------------------------------------


def test_a_campaign_is_a_matrix_of_conditions_and_seeds(capsys):
    lines = shown(capsys, "abl").splitlines()
    assert lines[0] == "abl"
    at = next(number for number, line in enumerate(lines) if line.startswith("condition"))
    assert lines[at].split() == ["condition", "42", "101"]
    assert re.split(r"\s{2,}", lines[at + 1]) == ["grpo+none", "✓ 40/40 0.500", "● 20/40"]
    assert lines[at + 2].split() == ["▁▂▃▄▅▆▇█", "▁▁▂▂▃▃▄▄"]  # to a common scale
    assert re.split(r"\s{2,}", lines[at + 3]) == ["maxrl+gtpo", "✗ 20/40", "·"]
    assert lines[at + 4].split() == ["▁▁▂▂▃▃▄▄"]
    assert lines[at + 6] == "✓ done  ● running  ✗ failed  · planned"
    assert lines[at + 7] == "steps done, eval/score; reward from 0.038 ▁ to 0.950 █"
    assert "  runs         1 of 4 done, 1 running, 1 failed, 1 planned, 2 at once" in lines


def test_under_the_matrix_are_the_runs_in_trouble_and_what_to_type(capsys):
    make_run("outputs/abl/2/runs/maxrl+gtpo_s42", state="failed", steps=3, exit_reason="loss is nan\nat length")
    out = shown(capsys, "outputs/abl/2")
    assert "in trouble:\n  maxrl+gtpo_s42: failed\n    loss is nan\n    retrain status " in out
    assert re.search(r"next:\n  retrain status outputs/abl/2 --watch +look on\n  retrain compare ", out)
    assert "retrain resume" not in out  # it goes on


def test_what_to_type_about_a_campaign_that_has_ended(capsys):
    make_campaign("outputs/abl/3", MIXED, state="failed", tracking_uri="sqlite:///x.db")
    make_run("outputs/abl/3/runs/grpo+none_s101", state="interrupted")
    said = [command for command, _ in campaign_table.commands(state_of_campaign(Path("outputs/abl/3")))]
    assert said == [
        "retrain resume outputs/abl/3",
        "retrain resume outputs/abl/3 --retry-failed",
        "retrain compare outputs/abl/3",
        "retrain ui outputs/abl/3",
    ]
    finished = [command for command, _ in campaign_table.commands(state_of_campaign(Path("outputs/abl/1")))]
    assert finished == ["retrain compare outputs/abl/1"]


@pytest.mark.parametrize("width", [30, 50, 80, 120])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_matrix_fits_and_every_run_is_in_it(width, unicode):
    seeds = tuple(range(100, 112))
    make_campaign(
        "outputs/wide/1", {"a-condition-with-a-long-label": ["done"] * 12, "b": ["planned"] * 12}, seeds=seeds
    )
    state = state_of_campaign(Path("outputs/wide/1"))
    lines = campaign_table.matrix(state, Style(width=width, unicode=unicode), Curves())
    assert max(map(columns, lines)) <= width
    text = "\n".join(lines)
    assert [seed for seed in seeds if str(seed) not in text] == []
    done, planned = ("✓", "·") if unicode else ("+", ".")
    body = text.rpartition("\n\n")[0]
    assert body.count(f"{done} ") == 12
    assert len(re.findall(rf"(?<=\s){re.escape(planned)}(?=\s|$)", body)) == 12
    assert unicode or text.isascii()


def test_where_seeds_would_not_fit_beside_each_other_steps_of_finished_runs_go_first():
    make_campaign("outputs/four/1", {"grpo+none": ["done"] * 3 + ["running"]}, seeds=(1, 2, 3, 4))
    state = state_of_campaign(Path("outputs/four/1"))
    wide, narrow = (campaign_table.matrix(state, Style(width=width), Curves()) for width in (72, 60))
    assert re.split(r"\s{2,}", wide[1]) == ["grpo+none", *["✓ 40/40 0.500"] * 3, "● 20/40"]
    assert re.split(r"\s{2,}", narrow[1]) == ["grpo+none", *["✓ 0.500"] * 3, "● 20/40"]


def test_a_cell_that_was_not_planned_is_blank():
    make_campaign("outputs/odd/1", {"a": ["done", "done"], "b": ["done", "done"]})
    path = Path("outputs/odd/1/manifest.json")
    values = json.loads(path.read_text())
    values["runs"] = values["runs"][:3]
    path.write_text(json.dumps(values))
    lines = campaign_table.matrix(state_of_campaign(path.parent), Style(), Curves(), bars=False)
    assert re.split(r"\s{2,}", lines[2]) == ["b", "✓ 40/40 0.500"]


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_a_terminal_without_utf8_gets_marks_that_it_can_show(encoding):
    class Terminal(io.StringIO):
        pass

    stream = Terminal()
    stream.__class__.encoding = encoding
    assert Style.of(stream).unicode is False


def test_a_damaged_campaign_is_shown(capsys):
    Path("outputs/abl/2/manifest.json").write_text("{")
    assert re.search(r"abl/2 +damaged .*\n    outputs/abl/2/manifest.json is damaged", shown(capsys))
    assert "damaged" in shown(capsys, "outputs/abl/2")


# --- for programs, and again and again ------------------------------------------------------------------------------


def test_json_lists_campaigns_with_their_runs_and_every_key_is_in_the_help(capsys):
    document = json.loads(shown(capsys, "--json"), parse_constant=pytest.fail)
    assert [run["directory"] for run in document["runs"]] == ["outputs/mini/3"]
    newest, oldest = document["campaigns"]
    assert (newest["directory"], newest["state"], oldest["state"]) == ("outputs/abl/2", "running", "done")
    assert newest["counts"] == {"done": 1, "running": 1, "failed": 1, "planned": 1}
    assert newest["conditions"] == ["grpo+none", "maxrl+gtpo"]
    cells = {(run["label"], run["seed"]): run for run in newest["runs"]}
    assert cells["grpo+none", 42]["metric_value"] == 0.5
    assert cells["maxrl+gtpo", 101]["state"] == "planned"


def test_a_watch_in_a_pipe_tells_only_what_has_changed():
    seen = {}
    first = status.news(["abl"], seen)
    assert "abl · running · 1 of 4 done, 1 running, 1 failed, 1 planned · " in first[0]
    assert [line.split(" · ")[0].split()[-1] for line in first[1:]] == [
        "grpo+none_s42", "grpo+none_s101", "maxrl+gtpo_s42",
    ]  # fmt: skip
    assert status.news(["abl"], seen) == []
    make_run("outputs/abl/2/runs/grpo+none_s101", state="done", steps=40, score=0.75)
    whole, run = status.news(["abl"], seen)
    assert "2 of 4 done" in whole
    assert run.endswith("abl grpo+none_s101 · done · step 40/40 · eval/score 0.750")


def test_a_watch_on_a_terminal_reads_a_curve_once(monkeypatch, capsys):
    curves, looked = Curves(), []
    of = Curves.of
    monkeypatch.setattr(Curves, "of", lambda self, run: looked.append(self) or of(self, run))
    status.text(["abl"], Style(width=80), everything=False, curves=curves)
    assert {id(one) for one in looked} == {id(curves)}


def test_it_imports_nothing_heavy(tmp_path):
    import subprocess

    heavy = ["torch", "transformers", "mlflow", "pyarrow", "hydra", "omegaconf", "rich", "numpy", "scipy"]
    program = (
        "import sys, json; from retrain.cli.main import main; main(['status', 'abl']); "
        f"json.dump([m for m in {heavy!r} if m in sys.modules], open('seen.json', 'w'))"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert json.loads(Path("seen.json").read_text()) == []
