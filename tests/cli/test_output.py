"""How much is said: --quiet and --verbose, anywhere on the command line."""

import json
import logging
import sys

import pytest

from retrain.cli import output
from retrain.cli.main import main
from retrain.cli.output import Level
from retrain.cli.progress import Lines, Spent, default_view
from retrain.errors import ConfigError

TOML = '[model]\nmodel = "builtin:tiny"\n\n[data]\nsource = "arithmetic"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.toml").write_text(TOML)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "level", "rest"),
    [
        (["explain", "a.toml"], Level.NORMAL, ["explain", "a.toml"]),
        (["-q", "explain", "a.toml"], Level.QUIET, ["explain", "a.toml"]),
        (["explain", "--quiet", "a.toml"], Level.QUIET, ["explain", "a.toml"]),
        (["explain", "a.toml", "-v", "-v"], Level.VERBOSE, ["explain", "a.toml"]),
        (["--run-name=-v"], Level.NORMAL, ["--run-name=-v"]),
    ],
)
def test_the_level_may_stand_anywhere(arguments, level, rest):
    assert output.take_level(arguments) == (level, rest)


@pytest.mark.parametrize("arguments", [["-q", "-v"], ["--quiet=yes"], ["-v=2"]])
def test_levels_that_cannot_be_meant_are_refused(arguments):
    with pytest.raises(ConfigError):
        output.take_level(arguments)


@pytest.mark.parametrize("arguments", [["--json", "explain", "mini.toml"], ["explain", "mini.toml", "--json"]])
def test_json_may_stand_before_the_command(arguments, capsys):
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "run"


def test_quiet_leaves_results_and_errors(capsys):
    assert main(["init", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["explain", "-q", "mini.toml"]) == 0
    out, err = capsys.readouterr()
    assert "optimiser steps" in out
    assert err == ""
    assert main(["explain", "-q", "nothing.toml"]) == 2
    assert "nothing.toml" in capsys.readouterr().err


def test_verbose_says_where_the_time_goes_on_stderr(capsys):
    assert main(["explain", "mini.toml"]) == 0
    plain, err = capsys.readouterr()
    assert err == ""
    assert main(["explain", "mini.toml", "--verbose"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == plain.splitlines()[0]
    assert [line.rpartition(" s ")[2] for line in err.splitlines()][-1] == "in all"
    assert "composing" in err


def test_verbose_shows_what_libraries_log_and_leaves_logging_as_it_was(capsys):
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    with output.at_level(Level.VERBOSE):
        logging.getLogger("somelibrary").info("downloading")
    assert "INFO somelibrary: downloading" in capsys.readouterr().err
    assert (root.handlers, root.level) == before
    logging.getLogger("somelibrary").info("downloading")
    assert capsys.readouterr().err == ""


def test_a_watched_run_shows_nothing_quietly_and_every_step_verbosely():
    with output.at_level(Level.QUIET):
        assert default_view() is None
    with output.at_level(Level.VERBOSE):
        view = default_view()
    assert isinstance(view, Lines)
    assert view.pause == 0


def test_time_is_told_by_phase_the_longest_first():
    """Steps measure their phases themselves: how they overlap is not seen from outside."""
    now = iter([0.0, 2.0, 3.0, 10.0, 11.0])
    spent = Spent(lambda: next(now))
    spent.begin("load")  # 2 s of start
    spent.begin("generate")  # 1 s of load
    spent.begin("save")  # 7 s that the steps measured
    spent.add({"time/generate": 2.5, "time/train": 4.0})
    assert str(spent) == "train 4.0 s, generate 2.5 s, start 2.0 s, load 1.0 s, save 1.0 s, score 0.0 s"


def test_json_is_escaped_where_the_stream_lacks_a_letter(monkeypatch):
    class Latin:
        encoding = "latin-1"

    assert output.json_text({"a": "é"}, Latin(), indent=None) == '{"a": "é"}'
    assert output.json_text({"a": "×→"}, Latin(), indent=None) == '{"a": "\\u00d7\\u2192"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.json_text({"a": float("nan")}, sys.stdout)


def test_lines_fold_only_where_there_is_an_end_of_the_line():
    assert output.fold("a b c", None, "  ") == ["  a b c"]
    assert output.fold("aaa bbb", 5, "", "  ") == ["aaa", "  bbb"]
    assert output.fold("/a/very/long-path", 5) == ["/a/very/long-path"]
