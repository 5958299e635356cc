"""What a machine does to a run: damaged files, a full disk, a read-only folder, a clock that jumps, a second resume.

Each fault is a function `(folder, whole) -> str`: what was seen, in a few words. `whole` is the outcome of a run that
nothing happened to. It raises AssertionError where a promise is broken, and `Skipped` where this machine cannot try it.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.chaos import runs
from tests.chaos.faults import DAMAGES, hurt
from tests.chaos.runs import STEPS, Child, command, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNFINISHED = 6  # the step at whose checkpoint `interrupted` leaves a run; the one before it is 4


class Skipped(Exception):  # noqa: N818  no error: a reason
    """This machine cannot make the fault."""


def interrupted(folder: Path, name: str) -> Path:
    """A copy of the finished run as a kill −9 after its third checkpoint would have left it."""
    from retrain import checkpoint
    from retrain.store import RunRecord

    run = folder / name
    shutil.copytree(folder / "whole", run)
    shutil.rmtree(run / "adapter")
    for saved in checkpoint.complete(run / "checkpoints"):
        if checkpoint.step_of(saved) > UNFINISHED:
            shutil.rmtree(saved)
    replace(RunRecord.read(run), state="running", pid=2**22 - 1, ended=None).write(run)
    return run


def finished(child: Child, run: Path, whole: dict[str, Any]) -> str:
    """Wait for an attempt that must come to the same end; what it said."""
    assert child.wait() == 0, child.said()
    difference = runs.difference(whole, outcome(run))
    assert not difference, f"{run.name} differs: {difference}"
    return child.said()


def refused(child: Child, *codes: int) -> str:
    """Wait for an attempt that must end by itself, with a reason and no traceback; what it said."""
    code, said = child.wait(), child.said()
    assert code in codes, f"exit code {code}: {said}"
    assert "Traceback" not in said, said
    return said


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1][:150] if said.strip() else "(nothing)"


# --- damaged checkpoints --------------------------------------------------------------------------------------------


def damaged(folder: Path, whole: dict[str, Any]) -> str:
    """Each file of the newest checkpoint, damaged in each way, is named; three of them are also resumed from."""
    from retrain import checkpoint

    rng, tried, steps = random.Random(0), 0, set()
    run = interrupted(folder, "damaged")
    newest = checkpoint.complete(run / "checkpoints")[-1]
    files = [str(file.relative_to(newest)) for file in newest.rglob("*") if file.is_file()]
    for name in files:
        for damage in DAMAGES:
            kept = (newest / name).read_bytes()
            if kept or damage == "missing":  # an empty file cannot be cut, or lose a bit
                hurt(newest / name, damage, rng.randrange(1 << 30))
                found, complaints = checkpoint.newest_sound(run / "checkpoints")
                assert found not in {None, newest}, f"{name} {damage}: {found} is used"
                assert name in complaints[0], complaints
                assert newest.name in complaints[0], complaints
                steps |= {checkpoint.step_of(one) for one in (found,) if one}
                tried += 1
            (newest / name).write_bytes(kept)
    assert checkpoint.newest_sound(run / "checkpoints") == (newest, [])
    name = max(files, key=lambda name: (newest / name).stat().st_size)
    hurt(newest / name, "flipped")
    said = finished(command(folder, "resume", run.name), run, whole)
    assert name in said, said
    assert newest.name in said, said
    return f"{tried} damages of {len(files)} files named, step {steps.pop()} used; resumed equal"


def all_damaged(folder: Path, whole: dict[str, Any]) -> str:
    """With no whole checkpoint left the run starts from its beginning, and says so."""
    from retrain import checkpoint

    run = interrupted(folder, "all-damaged")
    saved = checkpoint.complete(run / "checkpoints")
    for one in saved:
        hurt(max(one.rglob("*.safetensors")), "truncated")
    said = finished(command(folder, "resume", run.name), run, whole)
    for one in saved:
        assert one.name in said, said
    return f"{len(saved)} checkpoints damaged and named; started from step 0, equal"


# --- disks ----------------------------------------------------------------------------------------------------------


def file_limit(folder: Path, whole: dict[str, Any], sizes: tuple[int, ...] = ()) -> str:
    """No file may grow beyond a limit: wherever that hits, the run ends with a reason, and goes on without it."""
    codes, hit = set(), 0
    biggest = max(file.stat().st_size for file in (folder / "whole").rglob("*") if file.is_file())
    for size in sizes or sorted({600, 2000, 5000, *(biggest * part // 8 for part in range(1, 9))}):
        run = interrupted(folder, f"limit-{size}")
        child = command(folder, "resume", run.name, before=partial(limit, size))
        code = child.wait()
        assert code in {0, 1, 2}, f"limit {size}: exit code {code}: {child.said()}"
        assert "Traceback" not in child.said(), f"limit {size}: {child.said()}"
        codes.add(code)
        if code:
            hit += 1
            assert run.name in child.said(), child.said()
            finished(command(folder, "resume", run.name), run, whole)
    assert hit, "no limit was low enough"
    return f"{hit} limits up to {biggest:,} bytes, exit codes {sorted(codes)}; each resumed equal"


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(done.stderr.strip() or "mount is refused")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def full_disk(folder: Path, whole: dict[str, Any], free: tuple[int, ...] = (0, 3_000, 20_000, 60_000, 150_000)) -> str:
    """A tmpfs that is full but for a few bytes: an exit code and the reason; then space again, and an equal end."""
    said = ""
    with mounted(folder / "disk", "-t", "tmpfs", "-o", "size=80m", "tmpfs") as disk:
        for number, left in enumerate(free):
            run = interrupted(folder, "moved")
            inside = disk / f"run-{number}"
            shutil.move(run, inside)
            filler = disk / "filler"
            child = command(folder, "resume", str(inside), before=partial(fill, filler, disk, left))
            said = refused(child, 0, 1, 2)
            assert child.code or left, "a full disk was not noticed"
            filler.unlink()
            if child.code:
                assert "No space left" in said or "free some space" in said, said
                finished(command(folder, "resume", str(inside)), inside, whole)
            shutil.rmtree(inside)
    return f"{len(free)} sizes; each resumed equal"


def fill(filler: Path, disk: Path, left: int) -> None:
    """Leave `left` bytes of a disk: a tmpfs counts in pages."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, max(1, free - left))


def read_only(folder: Path, whole: dict[str, Any]) -> str:
    """A run directory that cannot be written: refused with the reason, by a new run and by a resumed one."""
    run = interrupted(folder, "read-only")
    with mounted(run, "--bind", str(run)):
        again = ["mount", "-o", "remount,ro,bind", str(run)]
        if subprocess.run(again, capture_output=True, check=False).returncode:
            raise Skipped("remounting read-only is refused")
        said = refused(command(folder, "resume", run.name), 1, 2)
        assert "Read-only" in said, said
        said = refused(command(folder, "tiny.toml", "--log-dir", f"{run.name}/new"), 1, 2)
    finished(command(folder, "resume", run.name), run, whole)
    return f'refused: "{last_line(said)}"; writable again: resumed equal'


# --- clocks and rivals ----------------------------------------------------------------------------------------------


def clock_jumps(folder: Path, whole: dict[str, Any]) -> str:
    """The wall clock jumps by hours, back and forth, at every look: nothing that is compared depends on it."""
    run = folder / "jumps"
    child = command(folder, "tiny.toml", "--log-dir", run.name, before=jump)
    finished(child, run, whole)
    part = interrupted(folder, "jumps-resumed")
    finished(command(folder, "resume", part.name, before=jump), part, whole)
    return "a whole run and a resumed one, ±5 h at each call of time.time: equal"


def jump() -> None:
    rng, now = random.Random(0), time.time
    time.time = lambda: now() + rng.uniform(-5, 5) * 3600


def two_resumes(folder: Path, whole: dict[str, Any], moments: int = 6) -> str:
    """A second resume, at any moment of the first, is refused: exit code 2, and it names the process that holds it."""
    rng, refusals = random.Random(1), 0
    for number in range(moments):
        run = interrupted(folder, f"two-{number}")
        first = command(folder, "resume", run.name)
        wait_for_lock(run, first)
        time.sleep(rng.uniform(0, 1.0) if number else 0.0)
        if first.poll() is None:
            os.kill(first.pid, signal.SIGSTOP)
            said = refused(command(folder, "resume", run.name), 2)
            assert str(first.pid) in said, f"{said} does not name process {first.pid}"
            os.kill(first.pid, signal.SIGCONT)
            refusals += 1
        finished(first, run, whole)
    run = interrupted(folder, "race")
    rivals = [command(folder, "resume", run.name) for _ in range(3)]
    codes = sorted(rival.wait() for rival in rivals)
    assert codes == [0, 2, 2], [rival.said() for rival in rivals]
    assert not runs.difference(whole, outcome(run))
    return f"{refusals} refused and the holder named; of 3 at once one trained, equal"


def wait_for_lock(run: Path, child: Child) -> None:
    while str(child.pid) not in (run / ".lock").read_text() and child.poll() is None:
        time.sleep(0.002)


FAULTS: dict[str, Callable[[Path, dict[str, Any]], str]] = {
    "damaged": damaged,
    "all-damaged": all_damaged,
    "file-limit": file_limit,
    "full-disk": full_disk,
    "read-only": read_only,
    "clock": clock_jumps,
    "two-resumes": two_resumes,
}


def whole_run(folder: Path) -> dict[str, Any]:
    """Train the run that the others are compared with."""
    child = command(folder, "tiny.toml", "--log-dir", "whole", "--keep-checkpoints", str(STEPS))
    assert child.wait() == 0, child.said()
    return outcome(folder / "whole")
