"""The manual on a real terminal: a pty of a certain size, with pagers that are programs."""

import os
import pty
import re
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.cells import cell_len

CALL = [sys.executable, "-c", "import sys; from retrain.cli.main import main; sys.exit(main())", "man"]


def on_a_terminal(*arguments, rows=24, columns=80, keys=b"", **environment) -> tuple[int, str]:
    """Run `retrain man` on a terminal of a size, typing keys; return its exit code and all that it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        os.execve(
            sys.executable, [*CALL, *arguments], {**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment}
        )
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen, ends = b"", time.monotonic() + 60
    try:
        while time.monotonic() < ends:
            ready, _, _ = select.select([terminal], [], [], 0.5)
            if ready:
                try:
                    part = os.read(terminal, 65536)
                except OSError:  # the other side is closed
                    break
                if not part:
                    break
                seen += part
            elif keys:
                os.write(terminal, keys)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


@pytest.fixture
def pager(tmp_path):
    """Make a pager that writes what it gets to a file, and says so; return its command and the file."""
    program, kept = tmp_path / "pager", tmp_path / "paged"
    program.write_text(f"#!/bin/sh\ncat > {kept}\necho PAGED\n")
    program.chmod(0o755)
    return str(program), kept


@pytest.mark.parametrize("name", ["RETRAIN_PAGER", "MANPAGER", "PAGER"])
def test_what_is_taller_than_the_screen_goes_through_the_pager(pager, name):
    command, kept = pager
    code, seen = on_a_terminal("sepa", **{name: command})
    assert (code, seen.strip()) == (0, "PAGED")
    assert "The schedule" in kept.read_text()
    assert "\x1b[" in kept.read_text()


def test_our_own_variable_beats_man_s_which_beats_the_general_one(pager):
    command, _ = pager
    assert "PAGED" in on_a_terminal("sepa", RETRAIN_PAGER=command, MANPAGER="false", PAGER="false")[1]
    assert "PAGED" in on_a_terminal("sepa", MANPAGER=command, PAGER="false")[1]


def test_what_fits_the_screen_does_not(pager):
    command, kept = pager
    code, seen = on_a_terminal("sepa", rows=900, PAGER=command)
    assert code == 0
    assert "The schedule" in seen
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--no-pager"], {}), ([], {"PAGER": ""}), ([], {"PAGER": "cat"}), ([], {"RETRAIN_PAGER": ""})],
)
def test_without_a_pager_all_of_it_is_printed(pager, arguments, environment):
    command, kept = pager
    code, seen = on_a_terminal("sepa", *arguments, **{"PAGER": command, **environment})
    assert code == 0
    assert "The schedule" in seen
    assert not kept.exists()


def test_a_pager_that_is_left_early_is_no_error():
    code, seen = on_a_terminal("advantages", PAGER="head -n 3")
    assert code == 0
    assert "Traceback" not in seen
    assert "BrokenPipe" not in seen


def test_a_pager_that_is_not_there_is_named_and_the_text_is_printed():
    code, seen = on_a_terminal("sepa", PAGER="/nowhere/pager")
    assert code == 0
    assert "/nowhere/pager cannot be started" in seen
    assert "The schedule" in seen


@pytest.mark.skipif(not Path("/usr/bin/less").exists(), reason="there is no less")
def test_less_shows_it_and_q_leaves():
    code, seen = on_a_terminal("sepa", keys=b"q")
    assert code == 0
    assert "The idea" in seen
    assert "ESC[" not in seen  # less shows colours as colours


def test_no_color_is_heeded():
    _, seen = on_a_terminal("sepa", "--no-pager", NO_COLOR="1")
    assert "\x1b[3" not in seen


@pytest.mark.parametrize(("columns", "widest"), [(40, 40), (80, 80), (200, 100)])
def test_a_search_fits_the_terminal_and_marks_the_words(columns, widest):
    code, seen = on_a_terminal("--search", "lora rank", "--no-pager", columns=columns)
    assert code == 0
    assert "\x1b[1;33mlora\x1b[0m" in seen
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines()
    assert max(map(cell_len, plain)) <= widest


def test_hits_that_are_taller_than_the_screen_go_through_the_pager(pager):
    command, kept = pager
    assert on_a_terminal("--search", "training", PAGER=command)[1].strip() == "PAGED"
    assert "retrain man" in kept.read_text()


def test_words_that_are_nowhere_are_told_on_a_terminal_too():
    code, seen = on_a_terminal("--search", "zzyzzx")
    assert code == 1
    assert '"zzyzzx" is nowhere in the manual' in seen
