"""The view of a campaign that goes on: lines in a pipe, a table on a terminal, and the last words."""

import io
import re
import sys
from pathlib import Path

import pytest

from retrain import compare
from retrain.campaign.manifest import Manifest
from retrain.campaign.state import Curves, state_of_campaign
from retrain.cli import campaign_view
from retrain.cli.campaign_view import CampaignWatch, Lines, ending, frame
from retrain.cli.status_view import Style
from tests.campaign_folder import make_campaign, make_run

PLANNED = {"grpo": ["planned", "planned"], "hot": ["planned", "planned"]}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    return make_campaign("outputs/abl/1", PLANNED)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(folder, name, state, **changes):
    """A run has come to a state; the campaign has written that down."""
    if state != "planned":
        make_run(folder / "runs" / name, state=state, **changes)
    manifest = Manifest.read(folder).with_run(name, state=state)
    manifest.write(folder)
    return manifest


def test_a_pipe_gets_a_line_for_each_start_and_end_and_each_tenth_of_the_whole(folder):
    stream = io.StringIO()
    with CampaignWatch(Lines(stream)) as watch:
        watch.changed(folder, Manifest.read(folder))
        watch.changed(folder, run(folder, "grpo_s42", "running", steps=0))
        watch.changed(folder, run(folder, "hot_s42", "running", steps=10))
        watch.changed(folder, run(folder, "grpo_s42", "done", steps=40, score=0.75))
        watch.changed(folder, run(folder, "hot_s42", "failed", steps=10, exit_reason="loss is nan\nsomewhere"))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "campaign outputs/abl/1: 4 of 4 runs to do, 2 at once"
    assert lines[1] == "grpo_s42 · started"
    assert lines[2] == "hot_s42 · started · from step 10"
    assert re.fullmatch(r"grpo_s42 · done · step 40/40 · eval/score 0.750 · took \d:\d\d", lines[3])
    assert re.fullmatch(r"30% of all steps · 1 of 4 done, 1 running, 2 planned · \d+:\d\d left", lines[4])  # 50 of 160
    assert lines[5].startswith("hot_s42 · failed · step 10/40 · ")
    assert lines[5].endswith(" · loss is nan")
    assert len(lines) == 6


def test_a_campaign_that_goes_on_tells_what_is_missing_and_not_what_is_done(folder):
    run(folder, "grpo_s42", "done", steps=40)
    stream = io.StringIO()
    with CampaignWatch(Lines(stream)) as watch:
        watch.changed(folder, run(folder, "grpo_s101", "running", steps=0))
    assert stream.getvalue().splitlines() == [
        "campaign outputs/abl/1: 3 of 4 runs to do, 2 at once",
        "grpo_s101 · started",
    ]


def test_the_runs_are_looked_at_rarely_unless_the_manifest_has_changed(folder, monkeypatch):
    looked = []
    monkeypatch.setattr(
        campaign_view, "state_of_campaign", lambda *a, **k: looked.append(a) or state_of_campaign(*a, **k)
    )
    clock, manifest = Clock(), Manifest.read(folder)
    with CampaignWatch(Lines(io.StringIO()), clock) as watch:
        for _ in range(4):
            watch.changed(folder, manifest)
            clock.now += 0.5
        assert len(looked) == 1
        clock.now += 0.5
        watch.changed(folder, manifest)
        assert len(looked) == 2
        watch.changed(folder, run(folder, "grpo_s42", "running"))
        assert len(looked) == 3


def test_a_reader_that_goes_away_ends_the_view_and_not_the_campaign(folder):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    with CampaignWatch(Lines(Gone())) as watch:
        watch.changed(folder, Manifest.read(folder))
        assert watch.view is None
        watch.changed(folder, Manifest.read(folder))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_gets_the_matrix_redrawn_in_place(folder, monkeypatch, plain):
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm-256color")
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with CampaignWatch() as watch:
        watch.changed(folder, run(folder, "grpo_s42", "running"))
        watch.changed(folder, run(folder, "grpo_s42", "done", steps=40))
    text = terminal.getvalue()
    assert "\x1b[" in text  # the cursor goes back up
    assert ("\x1b[36m" in text) is not plain
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).replace("\r", "").rpartition("condition")[2]
    assert "✓ 40/40 0.500" in last
    assert "▁▂▃▄▅▆▇█" in last


def test_a_terminal_that_can_do_nothing_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(campaign_view.default_view(), Lines)


def test_a_low_terminal_loses_the_curves_and_then_the_runs_in_trouble(folder):
    run(folder, "grpo_s42", "failed", exit_reason="boom")
    state = state_of_campaign(folder)

    def shown(height):
        return frame(state, Style(width=90), Curves(), 0.0, height)

    def has(text, *names):
        return [name in text for name in names]

    high = len(shown(1000).splitlines()) + 1
    assert has(shown(high), "▁", "boom", "grpo") == [True, True, True]
    assert has(shown(high - 1), "▁", "boom", "grpo") == [False, True, True]
    assert has(shown(12), "▁", "boom", "grpo") == [False, False, True]


def test_the_end_says_what_came_of_it_where_it_is_and_what_to_type(folder, monkeypatch):
    make_campaign("outputs/abl/2", {"grpo": ["done"] * 2, "hot": ["done", "failed"]}, state="failed")
    make_run("outputs/abl/2/runs/hot_s101", state="failed", exit_reason="CUDA out of memory")
    Path("outputs/abl/2/report.html").write_text("")
    monkeypatch.setattr(compare, "headline", lambda directory: f"hot is better than grpo in {directory}")
    text = ending(Path("outputs/abl/2"))
    assert re.search(r"^abl: 3 of 4 done, 1 failed, took 5:40$", text, re.MULTILINE)
    assert "  hot is better than grpo in outputs/abl/2\n" in text
    assert "  hot_s101: failed\n    CUDA out of memory\n" in text
    assert "  report       outputs/abl/2/report.html\n" in text
    assert "results.csv" not in text  # there is none
    assert re.search(r"next:\n  retrain resume outputs/abl/2  .*\n  retrain resume outputs/abl/2 --retry-failed", text)


def test_where_nothing_is_done_the_end_claims_no_verdict(folder):
    assert "verdict" not in ending(folder)
