"""Real processes with streams as a shell may leave them: closed, full, cut off by `head`, in any locale, on any width.

Whatever the streams are like: the exit code is that of the command, there is no traceback, and nothing is printed by
the interpreter at exit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.made_runs import write_run

TOML = '[model]\nmodel = "builtin:tiny"\n\n[data]\nsource = "arithmetic"\n'
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
BYTES = "\udcff"  # a byte that is not UTF-8, as Python holds it


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mini.toml").write_text(TOML)
    (tmp_path / "other.toml").write_text(f"{TOML}[training]\nlr = 1e-3\n")
    for number in range(3):
        write_run(tmp_path / f"outputs/mini/run-{number}", 0.5, seed=number)
    return tmp_path


def shell(command, folder, **environment):
    """Run a line of bash in which `retrain` is this one; `set -o pipefail` is on."""
    line = f'set -o pipefail; retrain() {{ "{sys.executable}" -m retrain.cli.main "$@"; }}; {command}'
    own = {**os.environ, "PYTHONUTF8": "1", **environment}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=own, capture_output=True, timeout=120, check=False, errors="replace"
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        # the reader has seen enough
        ("retrain explain mini.toml --all | head -1", 0, ""),
        ("retrain explain mini.toml --json | head -1", 0, ""),
        ("retrain man configuration | head -1", 0, ""),
        ("retrain status | head -1", 0, ""),
        ("retrain status --json | head -1", 0, ""),
        ("retrain --help | head -1", 0, ""),
        ("retrain explain nothing.toml 2>&1 | head -0", 2, ""),
        ("retrain explain nothing.toml --json 2>&1 | head -0", 2, ""),
        # closed streams
        ("retrain status >&-", 0, ""),
        ("retrain status 2>&- | grep -c run-0", 0, ""),
        ("retrain explain nothing.toml 2>&-", 2, ""),
        ("retrain explain nothing.toml <&- >&- 2>&-", 2, ""),
        ("retrain <&- | grep -c Commands", 0, ""),
        ("retrain init --interactive <&-", 2, "--template"),
        # a full disk
        pytest.param("retrain --help >/dev/full", 1, "error: the output cannot be written", marks=FULL),
        pytest.param("retrain status --json >/dev/full", 1, "No space left on device", marks=FULL),
        pytest.param("retrain explain nothing.toml 2>/dev/full", 2, "", marks=FULL),
    ],
)
def test_streams_that_end_early_change_no_exit_code_and_leave_no_traceback(command, code, said, folder):
    done = shell(command, folder)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if not said:
        assert done.stderr == ""


def test_a_closed_stdout_is_no_place_for_a_file(tmp_path):
    """Without care the first file that is opened gets the number of stdout, and receives what is printed."""
    done = shell("retrain init --template demo >&- && grep -c model retrain.toml", tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip().isdigit()


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
)
def test_every_locale_gets_text_and_json_that_loses_nothing(environment, folder):
    (folder / "mini.toml").write_text(f'{TOML}[logging]\nrun_name = "é×"\n', encoding="utf-8")
    document = shell("retrain explain mini.toml --json", folder, **environment)
    assert json.loads(document.stdout)["config"]["logging"]["run_name"] == "é×"


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", f"{BYTES}.toml"],
        [f"{BYTES}.toml"],
        ["explain", "mini.toml", "--run-name", BYTES],
        ["explain", "mini.toml", f"logging.run_name={BYTES}"],
        ["status", BYTES],
        [BYTES],
    ],
)
def test_arguments_that_are_no_text_are_errors_like_others(arguments, folder):
    Path(folder, f"{BYTES}.toml").write_text(TOML)
    command = [sys.executable, "-m", "retrain.cli.main", *map(os.fsencode, arguments)]
    done = subprocess.run([*command, b"--json"], cwd=folder, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert json.loads(done.stderr)["error"]["code"] == "config"


def test_a_folder_whose_name_is_no_text_is_listed_with_its_bytes(folder):
    (folder / "outputs/mini").rename(folder / BYTES)
    command = [sys.executable, "-m", "retrain.cli.main", "status", os.fsencode(BYTES)]
    own = {**os.environ, "PYTHONUTF8": "1"}
    table = subprocess.run(command, cwd=folder, capture_output=True, env=own, timeout=60, check=False)
    assert table.returncode == 0
    found = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, env=own, timeout=60, check=False)
    assert os.fsencode(json.loads(found.stdout)["runs"][0]["directory"]).startswith(b"\xff/run-")


@pytest.mark.parametrize("arguments", [["status"], ["plugins", "--kind", "baseline"], ["explain", "mini.toml"]])
def test_a_terminal_of_one_column_is_no_reason_to_fail(arguments, folder):
    terminal = Terminal(*arguments, cwd=folder, columns=1)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["explain", "mini.toml", "--run-name", "a-long-name"],
        ["explain", "mini.toml", "--diff", "other.toml", "--run-name", "a-long-name"],
    ],
)
def test_tables_fold_where_the_terminal_is_narrow(arguments, folder):
    terminal = Terminal(*arguments, cwd=folder, columns=50)
    assert terminal.end() == 0
    assert max(map(len, terminal.shown.splitlines())) <= 50


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"NO_COLOR": "", "TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_have_and_want_it(environment, coloured, folder):
    terminal = Terminal("status", cwd=folder, **environment)
    assert terminal.end() == 0
    assert ("\x1b[" in terminal.shown) == coloured


def test_force_color_colours_a_pipe(folder):
    assert "\x1b[" in shell("retrain status", folder, FORCE_COLOR="1", NO_COLOR="").stdout
    assert "\x1b[" not in shell("retrain status", folder, NO_COLOR="").stdout
