"""`retrain` alone: an offer at a terminal, the help anywhere else."""

import subprocess
import sys

from tests.cli.terminal import Terminal

OFFER = "Answer six questions to make one? [Y/n] "


def test_at_a_terminal_without_a_config_one_is_offered(tmp_path):
    terminal = Terminal(cwd=tmp_path).expect(OFFER).send("\n").expect("model [").send("\x03")
    assert terminal.end() == 130
    assert list(tmp_path.iterdir()) == []


def test_no_is_answered_with_the_help(tmp_path):
    terminal = Terminal(cwd=tmp_path).expect(OFFER).send("perhaps\n").expect("neither yes nor no").send("n\n")
    assert terminal.end() == 0
    assert "Commands:" in terminal.shown


def test_the_end_of_input_is_no_yes(tmp_path):
    assert Terminal(cwd=tmp_path).expect(OFFER).send("\x04").end() == 0
    assert list(tmp_path.iterdir()) == []


def test_where_a_config_is_what_can_be_typed_is_said(tmp_path):
    (tmp_path / "retrain.toml").write_text("")
    terminal = Terminal(cwd=tmp_path)
    assert terminal.end() == 0
    assert "retrain explain" in terminal.shown
    assert "[Y/n]" not in terminal.shown


def test_in_a_pipe_the_help_is_printed_and_nothing_asked(tmp_path):
    command = [sys.executable, "-m", "retrain.cli.main"]
    done = subprocess.run(command, cwd=tmp_path, input="y\n", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Commands:" in done.stdout
