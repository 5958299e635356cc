"""The command as a process: what it imports, pipes that close, terminals without UTF-8, signals."""

import json
import os
import subprocess
import sys

import pytest

TENSORS = ["torch", "transformers", "trl", "peft", "accelerate", "numpy"]
HEAVY = [*TENSORS, "mlflow", "wandb", "datasets", "pandas", "matplotlib", "pyarrow", "optuna"]

TOML = '[model]\nmodel = "builtin:tiny"\n\n[data]\nsource = "arithmetic"\n'


def retrain(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "retrain.cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mini.toml").write_text(TOML)
    (tmp_path / "bad.toml").write_text(TOML + "[training]\nmax_stepz = 3\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["explain", "--help"], 0),
        (["init", "--list"], 0),
        ([], 0),
        (["explain", "mini.toml", "--diff", "mini.toml", "--verbose"], 0),
        (["init-plugin", "--kind", "transform", "--name", "mine", "--with-test"], 0),
        (["backends"], 0),
        (["backends", "--json"], 0),
        (["doctor", "--help"], 0),
        (["plugins"], 0),
        (["plugins", "mini.toml", "--json"], 0),
        (["explain", "mini.toml", "--all"], 0),
        (["explain", "mini.toml", "--json", "algorithm=maxrl", "--lr", "1e-5"], 0),
        (["explain", "mini.toml", "-m", "hydra/sweeper=optuna", "training.lr=interval(1e-5,1e-3)"], 0),
        (["explain", "bad.toml"], 2),
        (["bad.toml"], 2),
        (["mini.toml", "--lr", "fast"], 2),
        (["nothing.toml"], 2),
        (["resume", "nothing"], 2),
        (["debug-batch", "nothing.pt"], 2),
    ],
)
def test_a_command_that_trains_nothing_imports_nothing_heavy(arguments, code, folder):
    program = (
        "import sys, json; from retrain.cli.main import main; code = main(sys.argv[2:]); "
        f"json.dump([code, [m for m in {HEAVY!r} if m in sys.modules]], open(sys.argv[1], 'w'))"
    )
    command = [sys.executable, "-c", program, str(folder / "seen.json"), *arguments]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=True)
    assert json.loads((folder / "seen.json").read_text()) == [code, []]


def test_a_reader_that_is_gone_is_no_error(folder):
    """As with `retrain explain | head` once head has ended: here the reader has ended before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "retrain.cli.main", "explain", "mini.toml", "--json"]
    done = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_questions_of_init_import_nothing_heavy(folder):
    """With a file of problems, which is read: as `init --interactive` does before it knows a single answer."""
    (folder / "sums.jsonl").write_text('{"question": "1+1?", "answer": 2}\n')
    program = (
        "import sys; from retrain.cli.init_interactive import composed_of, Here, QUESTIONS, as_toml, show\n"
        "here, found = Here.look(), {}\n"
        "for one in QUESTIONS: found |= one.read(one.default(here, found), found)\n"
        "show(as_toml(found), composed_of(found))\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_utf8_gets_question_marks_not_a_crash(encoding, folder):
    done = retrain(
        "explain", "mini.toml", cwd=folder, encoding=encoding, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0
    assert "A = r ? mean(group)" in done.stdout


def test_errors_go_to_stderr_and_the_exit_code_to_the_shell(folder):
    done = retrain("bad.toml", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "bad.toml:7" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["bad.toml", "mini.toml"]


def test_a_missing_extra_is_answered_with_the_command_that_installs_it(folder):
    """The modules are hidden from a new process, as if only the core were installed."""
    program = (
        "import importlib.util as u, sys; found = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name in {HEAVY!r} else found(name, *a)\n"
        "from retrain.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["mini.toml"], ["explain", "mini.toml"]):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert 'pip install "retrain[local]"' in done.stdout + done.stderr
        assert done.returncode == (2 if arguments[0] == "mini.toml" else 0)
    assert sorted(path.name for path in folder.iterdir()) == ["bad.toml", "mini.toml"]
