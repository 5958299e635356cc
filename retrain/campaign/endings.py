"""How the process of a run ended, in words.

What the run itself has written in run.json comes first. Where it could not write any more, its exit code or signal,
what it printed last and the kernel's count of processes killed for want of memory say what happened.
"""

from __future__ import annotations

import contextlib
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import runs
from retrain.errors import ConfigError, Interrupted
from retrain.watchdog import Heartbeat, read_heartbeat

if TYPE_CHECKING:
    from retrain.store import RunRecord

OUT_OF_MEMORY = re.compile(r"MemoryError|OutOfMemoryError|bad_alloc|[Oo]ut of memory|[Cc]an(?:not|'t) allocate memory")
TRACEBACK = "Traceback (most recent call last):"
ASKED = ("SIGTERM", "SIGINT", "SIGUSR2")  # before it could listen, these end a process at once


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt at a run ended."""

    state: str  # "done", "failed", "interrupted"
    reason: str = ""
    code: int | None = None  # of its process; None: a signal ended it, or it never started
    signal: str = ""  # "SIGKILL"
    is_crash: bool = False  # another attempt may get further


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is known of an attempt whose process has ended."""

    directory: Path
    began: float  # unix seconds
    code: int  # as Popen.returncode: negative for a signal
    said: str  # what it printed, the end of it
    memory_kills: int | None = None  # processes that the kernel has killed meanwhile for want of memory; None: unknown

    def ending(self) -> Ending:
        """Say how it ended by itself, or by what others did to it."""
        name = signal_name(-self.code) if self.code < 0 else ""
        known = Ending(state="failed", code=None if name else self.code, signal=name)
        record = self._record()
        if record is None:
            return self._without_record(known)
        if record.state in ("done", "interrupted"):
            return replace(known, state=record.state, reason="" if record.state == "done" else record.exit_reason)
        if name:
            return replace(known, reason=self._killed(name), is_crash=True)
        has_crashed = TRACEBACK in self.said or record.exit_reason.startswith("SystemExit")
        return replace(known, reason=_in_words(record.exit_reason), is_crash=has_crashed)

    def _without_record(self, known: Ending) -> Ending:
        """Say how it ended where the run itself does not."""
        if known.signal in ASKED or known.code == Interrupted.exit_code:
            return replace(known, state="interrupted", reason="stopped before its first step")
        if known.signal:
            return replace(known, reason=self._killed(known.signal), is_crash=True)
        if complaint := _complaint(self.said):
            return replace(known, reason=complaint)
        reason = _last_error(self.said) or f"its process ended with code {self.code} before it was done"
        return replace(known, reason=_in_words(reason), is_crash=True)

    def _record(self) -> RunRecord | None:
        """Return run.json if it says how this attempt ended, or that nothing was left to be done."""
        with contextlib.suppress(ConfigError):
            record = runs.sound_record(self.directory)
            if record.state == "done" or (record.ended is not None and record.ended >= self.began):
                return record
        return None

    def _killed(self, name: str) -> str:
        words = f"killed by {name}{during(heartbeat_since(self.directory, self.began))}"
        if name == "SIGKILL" and self.memory_kills is None:
            return f"{words} (out of memory?)"
        if name == "SIGKILL" and self.memory_kills:
            return f"{words}: out of memory"
        found = OUT_OF_MEMORY.search(self.said)
        return f"{words}: out of memory ({found[0]})" if found and name == "SIGABRT" else words


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9; the number of one without a name."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _in_words(reason: str) -> str:
    """Say what a run's last error means, where its name alone does not."""
    name, _, text = reason.partition(":")
    if name == "SystemExit":
        return f"something called sys.exit({text.strip()})"
    if OUT_OF_MEMORY.search(reason) and not reason.lower().startswith("out of memory"):
        return f"out of memory: {reason.strip().rstrip(':')}"
    return reason


def _complaint(said: str) -> str:
    """Return the problems that the child listed at its end; empty when it did not."""
    found = re.search(r"^error: .*\Z", said, re.MULTILINE | re.DOTALL)
    return re.sub(r"^error: ", "", found[0], flags=re.MULTILINE).strip() if found else ""


def _last_error(said: str) -> str:
    """Return the last line of the last traceback; empty when nothing was raised."""
    _, found, text = said.rpartition(TRACEBACK)
    lines = [line for line in text.splitlines() if line and not line.startswith(" ")]
    return lines[0] if found and lines else ""


# --- what else can be known -----------------------------------------------------------------------------------------


def heartbeat_since(directory: Path, began: float) -> Heartbeat | None:
    """Return the heartbeat of a run; None when it has given none since an attempt began."""
    beat = read_heartbeat(directory)
    return beat if beat and beat.beat >= began else None


def during(beat: Heartbeat | None) -> str:
    """Say what a run was doing."""
    return f' in phase "{beat.phase}" after step {beat.step}' if beat else " while it was loading"


def memory_kills() -> int | None:
    """Count the processes of this control group that the kernel has killed for want of memory; None: unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, file = ("memory", "memory.oom_control") if controllers else ("", "memory.events")
            for folder in (group.lstrip("/"), ""):  # in a container the group's own folder may be the root
                path = Path("/sys/fs/cgroup", root, folder, file)
                found = re.search(r"^oom_kill (\d+)", path.read_text(encoding="ascii"), re.M) if path.exists() else None
                if found:
                    return int(found[1])
    return None
