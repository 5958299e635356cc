"""A real process on a real terminal: what it shows is waited for, then answered, as a person would."""

import os
import pty
import select
import signal
import sys
import time

SECONDS = 60.0  # a busy machine is slow


class Terminal:
    """`retrain ARGUMENTS` on a pseudo-terminal of its own."""

    def __init__(self, *arguments, cwd, columns=100, **environment):
        command = [sys.executable, "-m", "retrain.cli.main", *arguments]
        self.shown, self.seen = "", 0
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            own = {"COLUMNS": str(columns), "TERM": "xterm", "PYTHONUTF8": "1", "NO_COLOR": "1"}
            os.execve(command[0], command, {**os.environ, **own, **environment})

    def expect(self, text):
        """Wait until something is shown that has not been waited for yet."""
        end = time.monotonic() + SECONDS
        while text not in self.shown[self.seen :]:
            assert self._read(end), f"ended without {text!r}:\n{self.shown}"
        self.seen = self.shown.index(text, self.seen) + len(text)
        return self

    def send(self, text):
        """Type something; a line ends with its newline, "\\x03" is Ctrl-C and "\\x04" Ctrl-D."""
        os.write(self.master, text.encode())
        return self

    def end(self):
        """Wait for the process to end; return its exit code."""
        end = time.monotonic() + SECONDS
        while self._read(end):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)

    def _read(self, end):
        """Take what is shown; False when the process has ended."""
        ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"nothing more within {SECONDS:.0f} s:\n{self.shown}")
        try:
            got = os.read(self.master, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.shown += got.decode(errors="replace").replace("\r\n", "\n")
        return bool(got)
