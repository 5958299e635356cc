"""`retrain init --interactive`: six questions at a real terminal, each checked at once, nothing written unasked."""

import subprocess
import sys
from pathlib import Path

import pytest

from retrain.cli import init_questions
from retrain.cli.init_interactive import WHY, as_toml, composed_of
from retrain.cli.init_questions import QUESTIONS, Here
from retrain.cli.main import main
from retrain.config import compose
from retrain.errors import ConfigError
from tests.cli.terminal import Terminal

NOTHING = Here(gpu=False, models=[], files=[])
GPU = Here(gpu=True, models=["org/base", "org/some-Instruct"], files=[])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


def settings_of(here=NOTHING, **answers):
    """What the questions set when these are the answers; the default where there is none."""
    found = {}
    for question in QUESTIONS:
        found |= question.read(answers.get(question.name) or question.default(here, found), found)
    return found


# --- at a terminal --------------------------------------------------------------------------------------------------


def test_empty_answers_give_a_config_that_runs_and_says_what_it_costs(folder):
    terminal = Terminal("init", "--interactive", cwd=folder)
    for question in QUESTIONS:
        terminal.expect(f"{question.name} [").expect("]: ").send("\n")
    terminal.expect("[training]").expect("40 optimiser steps").expect("122,880 tokens at most in all")
    terminal.expect("of disk").expect("Memory on the CPU")
    assert not (folder / "retrain.toml").exists()
    terminal.expect("write retrain.toml? [Y/n] ").send("\n")
    assert terminal.end() == 0
    assert "retrain explain " in terminal.shown
    config = compose(Path("retrain.toml")).config
    assert (config.model.model, config.data.source, config.reward.type) == ("builtin:tiny", "arithmetic", "match")


def test_a_wrong_answer_is_explained_and_asked_again(folder):
    (folder / "sums.jsonl").write_text('{"problem": "1+1?", "answer": 2}\n')
    (folder / "bad.jsonl").write_text('{"question": "1+1?", "answer": 2}\n{"question": "2+2?"\n')
    wrong = {
        "model": ("builtin:tony", 'did you mean "builtin:tiny"?'),
        "data": ("bad.jsonl", "not JSON"),
        "reward": ("mtch", 'did you mean "match"?'),
        "budget": ("0", "a whole number of at least 1 is needed"),
        "device": ("tpu:0", "is not a device"),
        "tracking": ("http://me:hunter2@host:5000", "holds a secret"),
    }
    right = {"data": "sums.jsonl", "budget": "7", "tracking": "none"}
    terminal = Terminal("init", "--interactive", cwd=folder)
    for name, (answer, why) in wrong.items():
        terminal.expect(f"{name} [").send(f"{answer}\n").expect(why)
        terminal.expect(f"{name} [").send(f"{right.get(name, '')}\n")
    terminal.expect("write retrain.toml?").send("y\n")
    assert terminal.end() == 0
    config = compose(Path("retrain.toml")).config
    assert (config.data.path, config.data.prompt_key, config.training.max_steps) == ("sums.jsonl", "problem", 7)
    assert config.logging.tracking_uri == "none"
    assert "hunter2" not in (folder / "retrain.toml").read_text()


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [("\x03", 130, "interrupted"), ("\x04", 2, "nothing was written"), ("n\n", 0, "nothing was written")],
)
def test_what_is_broken_off_or_refused_writes_nothing(typed, code, said, folder):
    terminal = Terminal("init", "--interactive", cwd=folder)
    if typed == "n\n":
        for question in QUESTIONS:
            terminal.expect(f"{question.name} [").send("\n")
        terminal.expect("write retrain.toml?")
    else:
        terminal.expect("model [").send("\n").expect("data [")
    terminal.send(typed)
    assert terminal.end() == code
    assert said in terminal.shown
    assert list(folder.iterdir()) == []


def test_an_existing_file_is_refused_before_the_first_question(folder):
    (folder / "retrain.toml").write_text("mine")
    terminal = Terminal("init", "--interactive", cwd=folder)
    assert terminal.end() == 2
    assert "exists already" in terminal.shown
    assert "model [" not in terminal.shown
    assert (folder / "retrain.toml").read_text() == "mine"


def test_without_a_terminal_nothing_is_asked(folder):
    command = [sys.executable, "-m", "retrain.cli.main", "init", "--interactive"]
    done = subprocess.run(command, cwd=folder, input="\n" * 9, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--template demo" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("flags", [["--template", "demo"], ["--output", "no/such/folder.toml"]])
def test_flags_that_cannot_be_meant_are_refused(flags, capsys):
    assert main(["init", "--interactive", *flags]) == 2
    assert capsys.readouterr().out == ""


# --- what an answer means -------------------------------------------------------------------------------------------


def test_there_are_six_questions_and_they_are_those_that_were_promised():
    assert [question.name for question in QUESTIONS] == ["model", "data", "reward", "budget", "device", "tracking"]


@pytest.mark.parametrize(
    ("here", "model", "data"),
    [
        (NOTHING, "builtin:tiny", "arithmetic"),
        (GPU, "org/some-Instruct", "math"),
        (Here(gpu=True, models=[], files=[]), "Qwen/Qwen3-4B-Instruct-2507", "math"),
        (Here(gpu=False, models=["org/base"], files=["mine.jsonl"]), "builtin:tiny", "mine.jsonl"),
    ],
)
def test_defaults_follow_what_is_here(here, model, data):
    chosen = QUESTIONS[0].default(here, {})
    assert chosen == model
    assert QUESTIONS[1].default(here, {"model.model": chosen}) == data


def test_what_is_here_is_found_without_a_tensor_library(folder, monkeypatch):
    snapshot = folder / "hub/hub/models--org--some/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    (folder / "hub/hub/models--org--half").mkdir()
    (folder / "mine.jsonl").write_text("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Here.look() == Here(gpu=False, models=["org/some"], files=["mine.jsonl"])


ANSWERS = [
    {},
    {"model": "org/name", "data": "gsm8k", "reward": "random", "budget": "1,000 steps", "device": "gpu:1"},
    {"data": "openai/gsm8k:main", "tracking": "http://host:5000"},
    {"model": "org/name", "data": "math", "tracking": "none"},
]


@pytest.mark.parametrize("answers", ANSWERS)
def test_the_file_gives_the_config_that_the_answers_were_checked_with(answers, folder):
    settings = settings_of(**answers)
    text = as_toml(settings)
    (folder / "made.toml").write_text(text)
    assert compose(Path("made.toml")).config == composed_of(settings).config


@pytest.mark.parametrize("answers", ANSWERS)
def test_every_key_of_the_file_says_why_and_no_line_is_too_long(answers):
    text = as_toml(settings_of(**answers))
    assignments = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    above = dict(zip(text.splitlines()[1:], text.splitlines(), strict=False))
    assert all(" # " in line or above[line].startswith("# ") for line in assignments)
    assert max(map(len, text.splitlines())) <= 120


def test_every_reason_is_of_a_key_that_an_answer_can_set(monkeypatch, folder):
    monkeypatch.setattr(init_questions, "find_spec", lambda _: object())
    (folder / "mine.jsonl").write_text('{"prompt": "1+1?", "solution": "2"}\n')
    keys = {key for answers in ANSWERS for key in settings_of(**answers)}
    keys |= set(settings_of(data="mine.jsonl", tracking="wandb:mine"))
    assert set(WHY) <= keys


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("data", "jsonl", "names no problems"),
        ("budget", "ten", "is not a number of steps"),
        ("tracking", "somewhere", "is no tracker"),
        ("tracking", "wandb:", "needs the name of a project"),
    ],
)
def test_answers_that_mean_nothing_are_named(name, answer, expected):
    question = next(question for question in QUESTIONS if question.name == name)
    with pytest.raises(ConfigError, match=expected):
        question.read(answer, {"model.model": "builtin:tiny"})


def test_a_tracker_that_is_not_installed_is_refused_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(init_questions, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as refused:
        init_questions.read_tracking("wandb:mine", {})
    assert "retrain[wandb]" in refused.value.problems[0].hint
