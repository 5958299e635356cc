"""Real shells in a pty: what is typed, what TAB makes of it, and what the program gets in the end."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import sys
import termios
import time
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
COMMANDS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SETUP = {
    "bash": [
        "bind 'set enable-bracketed-paste off'",
        "bind 'set show-all-if-ambiguous on'",
        "bind 'set completion-query-items 0'",
        "bind 'set page-completions off'",
        'eval "$(retrain completion bash)"',
    ],
    "zsh": ["autoload -Uz compinit && compinit -u -D", "LISTMAX=0", 'eval "$(retrain completion zsh)"'],
    "fish": ["set fish_greeting", "retrain completion fish | source"],
}
PROGRAM = """\
#!/bin/sh
if [ "$1" = completion ]; then exec {python} -m retrain.cli.main "$@"; fi
printf '%s\\0' "$@" > "$SEEN.part"
mv "$SEEN.part" "$SEEN"
"""
ENTER, TAB, END_OF_LINE, CLEAR = "\r", "\t", "\x05", "\x15"
PATIENCE = 60.0  # seconds; a busy machine is slow
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[()=>][A-Z0-9]?|\r|\x07|\x08")


class Shell:
    """One interactive shell in a folder, whose `retrain` completes as ours does and else only notes its arguments."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.seen = name, folder / "seen"
        program = folder / "bin" / "retrain"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        places = {"HOME": folder, "ZDOTDIR": folder, "XDG_CONFIG_HOME": folder / ".config", "SEEN": self.seen}
        environment = os.environ | {variable: str(place) for variable, place in places.items()}
        environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(COMMANDS[name][0], COMMANDS[name], environment)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
        self.screen = ""
        for line in SETUP[name]:
            self.type(line + ENTER)
        assert self.run("retrain ready") == ["ready"]

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def run(self, line: str) -> list[str]:
        """Type a line, which may hold TABs, and Enter; return the arguments that the program got."""
        self.seen.unlink(missing_ok=True)
        self.type(line + ENTER)
        self._wait(self.seen.exists, line)
        return self.seen.read_bytes().decode().split("\0")[:-1]

    def shows(self, line: str, expected: list[str]) -> None:
        """Type a line that ends in TABs, wait until all of this is on the screen, and clear the line."""
        self.screen = ""
        self.type(line)
        self._wait(lambda: all(text in self.screen for text in expected), f"{line!r} → {expected}")
        self.type(CLEAR)

    def _wait(self, happened, what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < end, f"{what}\n{self.screen[-4000:]}"
            if select.select([self.terminal], [], [], 0.02)[0]:
                self.screen += CONTROL.sub("", os.read(self.terminal, 65536).decode(errors="replace"))

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def installed(name: str) -> bool:
    return shutil.which(name) is not None
