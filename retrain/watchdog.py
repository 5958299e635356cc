"""Notice when a run makes no progress: a heartbeat for whoever looks, and the stacks of what hangs.

    RUN/heartbeat.json   {"phase", "since", "step", "beat", "stalled", "stacks"}: replaced when the phase changes, and
                         every few seconds; times in unix seconds, `beat` is the last sign of progress
    RUN/stacks.txt       after `stall_timeout` seconds without one: where every thread is, and every child process

Two watch. A Python thread sees most stalls and writes names, lines of code and children. Where code outside Python
holds the interpreter, no Python thread runs: then a thread of C (`faulthandler`), which the first one has to put off
again and again, writes what it can into the same file. Files are best effort: a full disk must not end a run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

HEARTBEAT, STACKS = "heartbeat.json", "stacks.txt"
MAX_STALLS = 5  # stacks of more are not written: a run that stalls every hour must not fill the disk
LOOK_SECONDS = 0.25  # between two looks of the thread, at most
WRITE_SECONDS = 5.0  # between two heartbeats of one phase
C_THREAD_GRACE = 1.1  # of stall_timeout: the Python thread knows more, so it goes first


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """`heartbeat.json`. Times are unix seconds."""

    phase: str
    since: float  # when the phase began
    step: int  # steps done
    beat: float  # last sign of progress
    stalled: bool = False
    stacks: str = ""  # a file of the run directory, while it is stalled


def read_heartbeat(directory: Path) -> Heartbeat | None:
    """Return the last heartbeat of a run; None when it has none that can be read."""
    try:
        return Heartbeat(**json.loads((directory / HEARTBEAT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


# --- the watch ------------------------------------------------------------------------------------------------------


class Watchdog:
    """Watches one run, from a thread of its own.

    with Watchdog(run_dir, stall_timeout=1800, on_stall=print) as watchdog:
        watchdog.phase("generate", step=3)
        watchdog.beat()

    on_stall is called in that thread, once for each stall, with what happened. While no Python thread can run it is
    called as soon as one can.
    """

    def __init__(self, directory: Path, stall_timeout: float, on_stall: Callable[[str], None]) -> None:
        self.directory, self.stall_timeout, self.on_stall = directory, stall_timeout, on_stall
        self._look_seconds = min(LOOK_SECONDS, stall_timeout / 10)
        now = time.monotonic()
        self._beat = now
        self._phase: tuple[str, float, int] = ("start", now, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._file: TextIO | None = None
        self._stalls = 0
        self._armed = 0.0  # when the C thread was last put off

    # --- what a run calls -------------------------------------------------------------------------------------------

    def phase(self, name: str, step: int) -> None:
        """Say what is being done now; `step` counts the steps done. A sign of progress."""
        now = time.monotonic()
        self._phase = (name, now, step)
        self._beat = now

    def beat(self) -> None:
        """Give a sign of progress: for inner loops, it stores one number."""
        self._beat = time.monotonic()

    def __enter__(self) -> Self:
        try:
            # Open from the start, since a thread of C opens nothing; removed again if nothing was written.
            self._file = (self.directory / STACKS).open("a", encoding="utf-8")
        except OSError as error:
            log.warning("stacks of a stall cannot be written to %s: %s", self.directory, error)
        self._arm()
        self._write_heartbeat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._write_heartbeat()
        if self._file is not None:
            empty = not os.fstat(self._file.fileno()).st_size
            self._file.close()
            if empty:
                (self.directory / STACKS).unlink(missing_ok=True)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        stalled_at: float | None = None  # the beat after which nothing came
        written, shown, looked = time.monotonic(), self._phase, time.monotonic()
        while not self._stop.wait(self._look_seconds):
            now, beat = time.monotonic(), self._beat
            held = now - looked - self._look_seconds  # seconds for which this thread wanted to run and could not
            looked = now
            changed = self._phase is not shown
            if stalled_at is not None and beat != stalled_at:
                stalled_at, changed = None, True
                log.warning("the run makes progress again")
            if stalled_at is None and max(now - beat, held) > self.stall_timeout:
                self._report(now - beat, held)
                stalled_at, changed = (beat if now - beat > self.stall_timeout else None), True
            if stalled_at is None and now - self._armed > self.stall_timeout / 20:
                self._arm()
            if changed or now - written >= WRITE_SECONDS:
                written, shown = now, self._phase
                self._write_heartbeat(stalled=stalled_at is not None)

    def _arm(self) -> None:
        """Put the C thread off once more: it writes when this is not done for as long as a stall takes."""
        self._armed = time.monotonic()
        if self._file is None or self._stalls >= MAX_STALLS:
            faulthandler.cancel_dump_traceback_later()
            return
        seconds = self.stall_timeout * C_THREAD_GRACE + 2 * self._look_seconds
        faulthandler.dump_traceback_later(seconds, file=self._file)

    def _write_heartbeat(self, *, stalled: bool = False) -> None:
        name, since, step = self._phase
        offset = time.time() - time.monotonic()  # a clock that is set while the run goes on stalls nothing
        heartbeat = Heartbeat(
            phase=name,
            since=round(since + offset, 3),
            step=step,
            beat=round(self._beat + offset, 3),
            stalled=stalled,
            stacks=STACKS if stalled else "",
        )
        aside = self.directory / f".{HEARTBEAT}.{os.getpid()}"
        try:
            aside.write_text(json.dumps(asdict(heartbeat)), encoding="utf-8")
            aside.replace(self.directory / HEARTBEAT)
        except OSError as error:  # the next one may succeed
            log.debug("no heartbeat: %s", error)

    def _report(self, silent: float, held: float) -> None:
        """Write where everything is, and pass on what happened."""
        faulthandler.cancel_dump_traceback_later()
        name, _, step = self._phase
        where = f'in phase "{name}" after step {step}'
        if held > self.stall_timeout:
            what = (
                f"no thread of Python could run for {held:.0f} s {where}: code outside Python held the interpreter, "
                "or the process was stopped"
            )
        else:
            what = f"no progress for {silent:.0f} s {where}"
        self._stalls += 1
        self._write_stacks(what, was_held=held > self.stall_timeout)
        self.on_stall(f"{what}; where it was: {self.directory / STACKS}" if self._stalls <= MAX_STALLS else what)

    def _write_stacks(self, what: str, *, was_held: bool) -> None:
        if self._file is None or self._stalls > MAX_STALLS:
            return
        time_now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        parts = [f"\n=== {time_now}, process {os.getpid()}: {what}\n"]
        if was_held:
            parts.append('The dump above ("Timeout") is from while it lasted; what follows from right after.\n')
        parts += [thread_stacks(), child_processes()]
        if self._stalls == MAX_STALLS:
            parts.append(f"\nThis was stall {MAX_STALLS}: the stacks of later ones are not written.\n")
        try:
            self._file.write("\n".join(parts))
            self._file.flush()
        except OSError as error:
            log.warning("stacks cannot be written to %s: %s", self.directory / STACKS, error)


# --- where everything is --------------------------------------------------------------------------------------------


def thread_stacks() -> str:
    """Return where each Python thread of this process is, except the one that asks; most recent call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for number, frame in sys._current_frames().items():  # noqa: SLF001  the documented way to other threads' frames
        if number != threading.get_ident():
            stack = "".join(traceback.format_stack(frame))
            found.append(f"Thread {names.get(number, 'of unknown name')} ({number}):\n{stack}")
    return "\n".join(found)


STATES = {
    "R": "running",
    "S": "waiting",
    "D": "waiting for a device",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "ended and not collected",
    "I": "idle",
}
ANSWER = "retrain-stacks"  # name of the file in memory that a process writes its stacks into
ANSWER_SECONDS = 0.5
COMMAND_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    state: str
    cpu_seconds: float

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read a folder of /proc; None when the process is gone."""
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return cls(pid=int(folder.name), parent=int(fields[1]), state=fields[0], cpu_seconds=seconds)

    def __str__(self) -> str:
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            words = []
        command = " ".join(words).strip() or "(no command line)"
        state = STATES.get(self.state, self.state)
        return f"process {self.pid}, {state}, {self.cpu_seconds:.1f} s of CPU: {command[:COMMAND_CHARACTERS]}"


def child_processes() -> str:
    """Describe every process below this one, with the stacks of those that `answer_for_stacks` was called in."""
    table = [Process.read(folder) for folder in Path("/proc").glob("[0-9]*")]
    if not table:
        return "Child processes are not listed: there is no /proc here.\n"
    lines = _below(os.getpid(), [process for process in table if process is not None], indent="  ")
    return "\n".join(["Child processes:", *(lines or ["  none"]), ""])


def _below(parent: int, table: list[Process], indent: str) -> list[str]:
    lines = []
    for child in table:
        if child.parent == parent:
            lines.append(f"{indent}{child}")
            lines += [f"{indent}    {line}" for line in _ask_for_stacks(child.pid).splitlines()]
            lines += _below(child.pid, table, indent + "  ")
    return lines


def answer_for_stacks() -> None:
    """Let a watchdog above this process ask it for its stacks: by SIGUSR1, into a file in memory.

    The answer comes from a signal handler of C, so also in the middle of a call that holds the interpreter.
    """
    if hasattr(os, "memfd_create"):
        faulthandler.register(signal.SIGUSR1, file=os.memfd_create(ANSWER), all_threads=True)
    else:  # where nobody can ask, the signal must not end the process either
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _ask_for_stacks(pid: int) -> str:
    """Return the stacks of a process that answers; nothing where it does not."""
    with contextlib.suppress(OSError):  # it is gone, or another user's
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if ANSWER in str(link.readlink()) and _handles(pid, signal.SIGUSR1):
                before = link.stat().st_size
                os.kill(pid, signal.SIGUSR1)
                return _grown(link, before)
    return ""


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _grown(file: Path, before: int) -> str:
    """Wait until a file has grown and grows no more; return what was added."""
    until, size = time.monotonic() + ANSWER_SECONDS, before
    while time.monotonic() < until:
        time.sleep(0.02)
        last, size = size, file.stat().st_size
        if before < last == size:
            break
    with file.open("rb") as handle:
        handle.seek(before)
        return handle.read().decode(errors="replace")
