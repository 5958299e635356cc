"""Supervise one run of a campaign: start it, see it end, say how, and try again after a crash.

    supervise(order) ──▶ guard ──▶ child: trains in order.directory        DIRECTORY/child.log   all that it prints
            │                                                               DIRECTORY/exit.json   how it ended
            └─ timeout, no progress, stop: asked to save and end, then killed, with everything that it started

The supervisor holds nothing but a process: no torch, no CUDA. It may run in a thread, or in a launcher's own process on
another machine: an order is plain values, and what came of it is in exit.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from retrain.campaign import guard
from retrain.campaign.endings import Attempt, Ending, during, heartbeat_since, memory_kills
from retrain.errors import ConfigError
from retrain.runs import age, goes_on, sound_record
from retrain.store import RunLock, write_atomically
from retrain.watchdog import STACKS

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT, LOG = "exit.json", "child.log"
POLL_SECONDS = 0.05  # between two looks at whether the process lives
LOOK_SECONDS = 1.0  # between two looks at its progress
STOP_SECONDS = 30.0  # to save the last finished step when asked to stop; what is killed then loses no checkpoint
HANG_SECONDS = 5.0  # the same for a run that makes no progress, which will hardly answer
LATE_SECONDS = 10.0  # by which a heartbeat and the stacks of a hang may be late
LATE_SHARE = 1.2  # of stall_timeout: the run's own watchdog goes first and writes the stacks
LOG_BYTES = 16 << 20  # of child.log: what is older is in child.log.1, what was in that before is gone
SAID_BYTES = 64 << 10  # of its end, where the reason is looked for
STOPPED = Ending(state="interrupted", reason="its supervisor was stopped")
GUARD = (sys.executable, "-I", "-S", guard.__file__)  # a script: it needs no package, and no site


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run, and how. Plain values, for launchers that send it elsewhere."""

    directory: str  # the run directory, absolute; config.toml is in it
    places: tuple[str, ...]  # where plugins are looked for
    cwd: str  # the working directory of the run
    timeout: float  # seconds, all attempts together; 0: none
    stall_timeout: float  # seconds without progress after which a run is taken for hanging; 0: never
    max_retries: int  # further attempts after a crash, each from the last checkpoint
    environment: Mapping[str, str] = field(default_factory=dict[str, str])  # beside this process's own
    source: str = ""  # the TOML that the run comes from
    devices: str = "auto"  # backend.devices of its config; another one than auto is the run's own choice
    command: tuple[str, ...] = ()  # instead of the child; the run directory becomes its last argument


def named_gpu(devices: str) -> int | None:
    """Return which of the visible GPUs `backend.devices` names; None: none, or any."""
    index = devices.strip().lower().removeprefix("gpu:").removeprefix("cuda:")
    return int(index) if index.isascii() and index.isdigit() else None


@dataclass(frozen=True, kw_only=True)
class Exit:
    """`exit.json`: how a run ended, after all attempts. Times are unix seconds."""

    state: str  # "done", "failed", "interrupted"
    exit_reason: str
    code: int | None  # of the last process; None: a signal ended it, or it never started
    signal: str  # that signal, such as "SIGKILL"
    attempts: int
    started: float
    ended: float

    def write(self, directory: Path) -> None:
        write_atomically(directory / EXIT, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return how a run ended; None while nobody has said so."""
        try:
            return cls(**json.loads((directory / EXIT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def supervise(order: Order, *, stop: threading.Event | None = None) -> Exit:
    """Run an order to its end and return how it ended, which is in exit.json too.

    Set `stop` to end it: the run saves its last finished step and is interrupted. Nothing that the run does raises
    here. An exception in the calling thread, such as Ctrl-C, ends the run in the same way and goes on.
    """
    directory, started = Path(order.directory), time.time()
    stop = stop or threading.Event()
    with contextlib.suppress(OSError):
        (directory / EXIT).unlink(missing_ok=True)
    attempts, ending = 0, STOPPED
    try:
        while True:
            ending = STOPPED  # unless something else comes of this
            ending = _attempt(order, stop, order.timeout and started + order.timeout)
            if ending.code == ConfigError.exit_code and _is_trained(directory) and not stop.is_set():
                continue  # somebody else was faster, and is waited for
            attempts += 1
            if not ending.is_crash or attempts > order.max_retries or stop.is_set():
                break
            _note(directory, f"attempt {attempts} failed: {ending.reason}; the next one goes on from its checkpoint")
    finally:
        found = Exit(
            state=ending.state,
            exit_reason=ending.reason,
            code=ending.code,
            signal=ending.signal,
            attempts=attempts,
            started=started,
            ended=time.time(),
        )
        with contextlib.suppress(OSError):  # a full disk: the caller knows, and run.json says what it can
            found.write(directory)
    return found


def _attempt(order: Order, stop: threading.Event, deadline: float) -> Ending:
    """Start the process of a run and wait for its end; `deadline` in unix seconds, 0: none. Waiting is not its time."""
    directory, asked = Path(order.directory), time.time()
    try:
        _wait_for_lock(directory, stop)
    except ConfigError as error:  # somebody else trains there
        return Ending(state="interrupted" if stop.is_set() else "failed", reason=str(error))
    began, killed_before, begin = time.time(), memory_kills(), _log_size(directory)
    deadline += began - asked if deadline else 0.0
    try:
        process = _started(order)
    except OSError as error:
        return Ending(state="failed", reason=f"its process cannot be started: {error}")
    cut = ""
    try:
        cut = _watch(process, order, stop, began, deadline)
    finally:
        _end(process, HANG_SECONDS if cut else STOP_SECONDS)
    killed = memory_kills()
    attempt = Attempt(
        directory=directory,
        began=began,
        code=process.returncode,
        said=_said(directory, begin, began),
        memory_kills=None if killed is None or killed_before is None else killed - killed_before,
    )
    return _judged(attempt.ending(), cut, is_asked=stop.is_set(), is_late=bool(deadline) and time.time() > deadline)


def _judged(ending: Ending, cut: str, *, is_asked: bool, is_late: bool) -> Ending:
    """Say of a process that was ended why that was: how it went then matters less."""
    if ending.state == "done":
        return ending
    if cut:
        return replace(ending, state="failed", reason=cut, is_crash=not is_late)
    if is_asked and ending.signal == "SIGKILL":
        reason = f"killed, since it did not stop within {STOP_SECONDS:g} s"
        return replace(ending, state="interrupted", reason=reason, is_crash=False)
    return ending


# --- the process ----------------------------------------------------------------------------------------------------


def _wait_for_lock(directory: Path, stop: threading.Event) -> None:
    """Wait while another process trains here: one that saves its last step, or a job that has outlived its campaign.

    Raises:
        ConfigError: it was to stop meanwhile; or whoever has the lock is no run that goes on.
    """
    until, is_said = time.monotonic() + guard.STOP_SECONDS + 2 * guard.PARENT_SECONDS, False
    while True:
        try:
            RunLock.take(directory).release()
        except ConfigError as error:
            if stop.wait(POLL_SECONDS) or (time.monotonic() > until and not _is_trained(directory)):
                raise
            if not is_said:
                _note(directory, f"{error.problems[0].message}, which is waited for")
                is_said = True
        else:
            return


def _is_trained(directory: Path) -> bool:
    """Tell whether a run there goes on, on this machine or another."""
    try:
        return goes_on(directory, sound_record(directory))
    except ConfigError:
        return False


def _started(order: Order) -> subprocess.Popen[bytes]:
    """Start the run behind its guard, in a session of its own, so that no terminal reaches it."""
    places = [part for place in order.places for part in ("--place", place)]
    source = ["--source", order.source] if order.source else []
    child = [sys.executable, "-P", "-m", "retrain.campaign.child", *places, *source]  # -P: no module of the cwd's
    command = [*GUARD, str(os.getpid()), *(order.command or child), order.directory]
    with (Path(order.directory) / LOG).open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=order.cwd,
            env={**os.environ, **order.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _watch(process: subprocess.Popen[bytes], order: Order, stop: threading.Event, began: float, deadline: float) -> str:
    """Wait until the process ends, is to stop, or has to be ended; return why it has to be, else nothing."""
    directory, next_look = Path(order.directory), time.monotonic()
    while process.poll() is None and not stop.wait(POLL_SECONDS):
        if time.monotonic() < next_look:
            continue
        next_look = time.monotonic() + LOOK_SECONDS
        if deadline and time.time() > deadline:
            return f"stopped after {order.timeout:g} s, its timeout,{during(heartbeat_since(directory, began))}"
        if order.stall_timeout and (why := _hang(directory, order.stall_timeout, began)):
            return why
        _bound_log(directory)
    return ""


def _hang(directory: Path, stall_timeout: float, began: float) -> str:
    """Say that a run makes no progress; empty while it does. What it prints while it loads is progress."""
    beat, now = heartbeat_since(directory, began), time.time()
    silent = now - (beat.beat if beat else max(began, _changed(directory / LOG)))
    if not (beat and beat.stalled) and silent <= stall_timeout * LATE_SHARE + LATE_SECONDS:
        return ""
    stacks = directory / STACKS
    where = f"; where each thread was: {stacks}" if _changed(stacks) >= began else ""
    return f"it hung: no progress for {age(silent)}{during(beat)}{where}"


def _changed(path: Path) -> float:
    """Return when a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process that still runs to end, and kill what is left of its group."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # the guard passes it to the run alone: its workers serve to the end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    finally:  # a second Ctrl-C ends the wait
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- child.log ------------------------------------------------------------------------------------------------------


def _log_size(directory: Path) -> int:
    try:
        return (directory / LOG).stat().st_size
    except OSError:
        return 0


def _note(directory: Path, text: str) -> None:
    with contextlib.suppress(OSError), (directory / LOG).open("a", encoding="utf-8") as log:
        log.write(f"--- {text}\n")


def _bound_log(directory: Path) -> None:
    """Move a log that has grown too large aside. Its writer appends, so it goes on at the new end.

    What it writes in that very moment is lost.
    """
    if _log_size(directory) > LOG_BYTES:
        with contextlib.suppress(OSError):
            shutil.copyfile(directory / LOG, directory / f"{LOG}.1")
            os.truncate(directory / LOG, 0)


def _said(directory: Path, begin: int, began: float) -> str:
    """Return the end of what was printed since the log was `begin` bytes long, at the time `began`."""
    moved = directory / f"{LOG}.1"
    return (_tail(moved, 0) if _changed(moved) >= began else "") + _tail(directory / LOG, begin)


def _tail(path: Path, begin: int) -> str:
    with contextlib.suppress(OSError), path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - SAID_BYTES, begin if begin <= size else 0))
        return log.read().decode(errors="replace")
    return ""
