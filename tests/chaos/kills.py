"""Kill −9 at random moments of a run's life, and of its follower's; resume until it is done; compare."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos import runs
from tests.chaos.runs import Child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Table:
    """What the kills did."""

    phases: Counter[str] = field(default_factory=Counter)  # in which the kill hit
    first_starts: int = 0  # kills of a run that was not resumed yet
    resumes: int = 0
    runs: int = 0
    unequal: list[str] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)  # done, but not in a checkpoint, at each kill
    follower_kills: int = 0
    points: int = 0
    points_lost: int = 0
    points_doubled: int = 0

    @property
    def kills(self) -> int:
        return self.phases.total()

    def __str__(self) -> str:
        rows = [f"{name:<12}{count:>6}" for name, count in sorted(self.phases.items())]
        worst, mean = max(self.lost_steps, default=0), sum(self.lost_steps) / max(1, len(self.lost_steps))
        resumed = self.kills - self.first_starts
        rows += [
            f"{'':<12}{self.kills:>6}   {self.first_starts} of a first start, {resumed} of a resumed one",
            f"{'followers':<12}{self.follower_kills:>6}   killed too",
            f"{'runs':<12}{self.runs:>6}   resumes {self.resumes}",
            f"{'steps lost':<12}{mean:>6.1f}   a kill on average, at most {worst}; saved every {runs.SAVE_EVERY}",
            f"{'points':<12}{self.points:>6}   lost {self.points_lost}, doubled {self.points_doubled}",
            f"{'equal':<12}{'no' if self.unequal else 'yes':>6}   {'; '.join(self.unequal)}",
        ]
        return "\n".join(["phase        kills", *rows])


class Followers:
    """Keeps a forked follower at work beside each run, as training does, and kills it now and then."""

    def __init__(self, rng: random.Random, share: float, *, wanted: bool) -> None:
        self.rng, self.share, self.wanted, self.killed = rng, share, wanted, 0
        self._child: Child | None = None
        self._death = 0.0

    def look_after(self, run: Path) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        if self._child is None and self.wanted and (run / "metrics.jsonl").exists():
            self._child = Child(lambda: follow(run))
            doomed = self.rng.random() < self.share
            self._death = time.monotonic() + self.rng.uniform(0.0, 1.0) if doomed else float("inf")
        if self._child is not None and time.monotonic() > self._death:
            self.killed += self._child.kill() == -signal.SIGKILL
            self._child = None

    def finish(self, run: Path) -> None:
        """Let the last follower of a run send the rest."""
        from retrain.tracking import pending

        self._death = float("inf")
        if self._child is not None:
            self._child.wait()
        if pending(run):
            self._child = Child(lambda: follow(run))
            self._child.wait()
        self._child = None
        assert not pending(run), f"{run} is not sent: {pending(run)}"


def follow(run: Path) -> None:
    """The follower's own loop, without its figures."""
    from retrain.tracking import follower

    follower.POLL_SECONDS = 0.1
    follower.Figures.draw = lambda self: []
    follower.follow(run)


def count_points(run: Path, uri: str, table: Table) -> None:
    """Compare MLflow's store with metrics.jsonl: each key of each step once, with the right value."""
    from retrain.store import read_metrics
    from tests.tracking.training import Database

    database = Database(uri)
    (mirror,) = database.runs(run)
    query = (
        "select key, step, value from metrics where run_uuid = ? and key not like 'final/%' and key not like 'time/%'"
    )
    stored = Counter(database.rows(query, mirror))
    wanted = {
        (key, int(line["step"]), float(value))
        for line in read_metrics(run)
        for key, value in line.items()
        if key not in {"step", "time"} and not key.startswith("time/")
    }
    table.points += len(wanted)
    table.points_lost += len(wanted - stored.keys())
    table.points_doubled += stored.total() - len(stored.keys() & wanted)


def kill_runs(folder: Path, count: int, seed: int, *, uri: str, say: Callable[[str], None], real: int = 0) -> Table:
    """Kill `count` attempts, the first `real` of them through the real command line."""
    rng, table = random.Random(seed), Table()
    (life, expected), (again, same) = (uninterrupted(folder / name) for name in ("reference", "reference-again"))
    assert not runs.difference(expected, same), "two runs of this seed differ, with no kill at all"
    life = min(life, again)
    say(f"an uninterrupted run takes {life:.1f} s")
    followers = Followers(rng, 0.3, wanted=uri != "none")
    while table.kills < count:
        table.runs += 1
        run = folder / f"run-{table.runs}"
        run = kill_until_done(run, life, rng, table, followers, is_real=table.kills < real)
        if difference := runs.difference(expected, runs.outcome(run)):
            table.unequal.append(f"{run.name}: {difference}")
        if uri != "none":
            followers.finish(run)
            count_points(run, uri, table)
        if table.runs % 10 == 0:
            say(f"{table.kills} kills, {table.runs} runs, unequal {len(table.unequal)}")
    table.follower_kills = followers.killed
    return table


def uninterrupted(run: Path) -> tuple[float, dict[str, Any]]:
    """Seconds that a whole run takes, and its outcome."""
    begin = time.monotonic()
    whole = runs.command(run.parent, *runs.arguments_for(run))
    assert whole.wait() == 0, whole.said()
    return time.monotonic() - begin, runs.outcome(run)


def kill_until_done(
    run: Path, life: float, rng: random.Random, table: Table, followers: Followers, *, is_real: bool
) -> Path:
    """Start, kill, resume, kill, … until an attempt gets to its end; the directory that it came to."""
    attempts = 0
    while True:
        resumed = (run / "run.json").exists()
        if not resumed and (run / ".lock").exists():
            run = run.with_name(f"{run.name}-again")  # killed between claiming the place and describing the run
        attempts += 1
        table.resumes += resumed
        killed = _attempt(run, life * (1 + attempts / 10), rng, followers, is_real=is_real)
        if not killed:
            return run
        table.phases[killed] += 1
        table.first_starts += not resumed
        table.lost_steps.append(lost_steps(run))
        if killed == "end":  # it had written that it is done
            return run


def _attempt(run: Path, life: float, rng: random.Random, followers: Followers, *, is_real: bool) -> str:
    """One attempt with a kill at a random moment: the phase that it hit, empty when the attempt was done before."""
    folder, began = run.parent, time.time()
    if is_real:
        process = runs.real_command(folder, *runs.arguments_for(run))
        life *= 6  # with the imports
    else:
        process = runs.command(folder, *runs.arguments_for(run))
    death = time.monotonic() + rng.uniform(0.0, life)
    while process.poll() is None and time.monotonic() < death:
        followers.look_after(run)
        time.sleep(0.002)
    process.kill()
    code = process.wait()
    if code == -signal.SIGKILL:
        return phase(run, began)
    said = process.said() if isinstance(process, Child) else (folder / "words").read_text()
    assert code == 0, f"{run}: exit code {code}\n{said}"
    return ""


def phase(run: Path, began: float) -> str:
    """What an attempt that began at `began` was doing last."""
    try:
        if json.loads((run / "run.json").read_text())["state"] == "done":
            return "end"
        beat: dict[str, Any] = json.loads((run / "heartbeat.json").read_text())
    except FileNotFoundError:
        return "load"
    return str(beat["phase"]) if beat["beat"] >= began else "load"


def lost_steps(run: Path) -> int:
    """Steps that were done at a kill and must be done again."""
    from retrain import checkpoint
    from retrain.store import read_metrics

    lines = read_metrics(run)
    found, complaints = checkpoint.newest_sound(run / "checkpoints")
    assert not complaints, complaints
    return (int(lines[-1]["step"]) if lines else 0) - (checkpoint.step_of(found) if found else 0)
