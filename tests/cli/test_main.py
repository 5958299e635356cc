"""The front door: which command an argument means, exit codes, and how errors look."""

import json
import re

import pytest

from retrain import __version__
from retrain.cli.commands import COMMANDS
from retrain.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_on_stdout(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert all(f"\n  {name} " in out for name in COMMANDS if name != "train")
    assert "retrain CONFIG.toml" in out
    assert err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name, capsys):
    assert main([name, "--help"]) == 0
    assert COMMANDS[name].usage in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_each_of_its_own_flags(name, capsys):
    main([name, "--help"])
    named = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {flag for flag in COMMANDS[name].flags if flag.startswith("--")} <= named


def test_help_after_a_config_is_the_help_of_training(capsys):
    assert main(["mini.toml", "--lr", "1", "--help"]) == 0
    assert COMMANDS["train"].usage in capsys.readouterr().out


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"retrain {__version__}\n"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("exlpain", 'did you mean "explain"?'),
        ("resmue", 'did you mean "resume"?'),
        ("zzzzzz", "is neither a command nor a file"),
        ("help", 'did you mean "--help"?'),
        ("", "the first argument is empty"),
        ("--seed", "comes before the config"),
        ("training.lr=1", "comes before the config"),
        ("min.toml", 'did you mean "mini.toml"?'),
        ("sub/mini.toml", "there is no file sub/mini.toml"),
        ("mini", 'did you mean "mini.toml"?'),
        (".", "is a folder, a TOML file is needed"),
    ],
)
def test_an_unknown_first_argument_names_what_was_meant_and_exits_2(argument, expected, folder, capsys):
    (folder / "mini.toml").write_text("")
    assert main([argument]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert expected in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["init", "--tempalte", "demo"], "did you mean --template?"),
        (["init", "--template"], "--template needs a value"),
        (["init", "--list=yes"], "--list takes no value"),
        (["resume"], "takes one RUN, none was given"),
        (["resume", "a", "b"], "takes one RUN, got 2: a b"),
        (["sync", "--all", "a"], "--all is not a flag of retrain sync"),
        (["ui", "--port", "70000"], "--port 70000 is not a port"),
        (["ui", "a", "b"], "takes one RUN, got 2: a b"),
        (["explain"], "there is no retrain.toml here"),
        (["train"], "takes a config"),
        (["resume", "nothing"], "there is no run nothing"),
        (["sync", "nothing"], "there is no run nothing"),
        (["ui", "nothing"], "there is no run nothing"),
    ],
)
def test_wrong_arguments_of_a_command_exit_2_and_say_why(arguments, expected, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert out == ""


def test_every_problem_of_a_config_is_an_error_line_and_nothing_is_written(folder, capsys):
    (folder / "bad.toml").write_text('[training]\nlr = "fast"\nmax_stepz = 3\n')
    assert main(["bad.toml"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 2
    assert "error: bad.toml:2: " in err
    assert "error: bad.toml:3: " in err
    assert [path.name for path in folder.iterdir()] == ["bad.toml"]


def test_json_errors_are_one_document_on_stderr_whose_first_problem_is_the_error(folder, capsys):
    (folder / "bad.toml").write_text('[training]\nlr = "fast"\nmax_stepz = 3\n')
    assert main(["explain", "bad.toml", "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(err)
    assert out == ""
    assert document["error"] == document["problems"][0]
    assert set(document["error"]) == {"code", "key", "file", "line", "message", "hint"}
    assert [(p["code"], p["file"], p["line"]) for p in document["problems"]] == [
        ("config", "bad.toml", 2),
        ("config", "bad.toml", 3),
    ]


def test_what_was_typed_is_in_the_message_for_programs_and_is_no_file(folder, capsys):
    (folder / "mini.toml").write_text("")
    assert main(["explain", "mini.toml", "--json", "--lr", "fast", "--stepz", "3"]) == 2
    problems = json.loads(capsys.readouterr().err)["problems"]
    assert [(problem["file"], problem["line"]) for problem in problems] == [("", 0), ("", 0)]
    assert [problem["message"].split(": ")[:2] for problem in problems] == [
        ["command line", "--lr fast"],
        ["command line", "--stepz"],
    ]


def test_the_value_of_a_misplaced_flag_is_not_echoed(folder, capsys):
    (folder / "mini.toml").write_text("")
    assert main(["--judge-key=hunter2", "mini.toml"]) == 2
    err = capsys.readouterr().err
    assert "retrain mini.toml --judge-key" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("arguments", [["exlpain"], ["sync"], ["init", "--tempalte"], ["resume", "x"], ["--lr", "1"]])
def test_every_refusal_is_json_where_json_is_asked_for(arguments, capsys):
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert set(json.loads(err)) == {"error", "problems"}


def test_json_asked_for_turns_every_error_into_json(capsys):
    assert main(["explain", "nothing.toml", "--json"]) == 2
    assert "nothing.toml" in json.loads(capsys.readouterr().err)["error"]["message"]
