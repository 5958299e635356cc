"""What a run came to: did it learn, was anything wrong, where everything is, what to type next."""

from __future__ import annotations

import math
import shutil
import statistics
import sys
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import money
from retrain.cli.progress import duration, shown
from retrain.store import RunRecord, read_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_STEPS = 10  # fewer say nothing about a change
LEAST_WINDOW = 5
NORMAL_QUANTILE = 2.5758293  # 99.5 % of a normal distribution lie below: a two-sided test at 1 %


@dataclass(frozen=True, kw_only=True)
class Change:
    """The first and the last tenth of a run's steps, compared by a t-test at 1 %.

        s² = Σ (x_{i+1} − x_i)² / (2 (n − 1)),   t = (m₂ − m₁) / (s √(2 / w)),   ν = 2 (n − 1)² / (3 n − 4)

    The noise s comes from successive differences (von Neumann 1941), so that a curve which rises steeply within its
    first steps is not taken for a noisy one. Steps are taken as independent, which neighbours are not quite: hence 1 %
    and not 5 %, and hence no p-value. One run says nothing about other seeds.
    """

    before: float
    after: float
    window: int  # w, steps in each part
    t: float
    critical: float  # |t| above this is a clear change

    @property
    def clear(self) -> bool:
        return abs(self.t) > self.critical


def change(values: Sequence[float]) -> Change | None:
    """Compare the two ends of a series of step values; None when it is too short."""
    n = len(values)
    if n < LEAST_STEPS:
        return None
    window = max(LEAST_WINDOW, n // 10)
    before, after = statistics.fmean(values[:window]), statistics.fmean(values[-window:])
    noise = math.sqrt(sum((b - a) ** 2 for a, b in pairwise(values)) / (2 * (n - 1)))
    difference = after - before
    t = difference / (noise * math.sqrt(2 / window)) if noise else 0.0  # without noise nothing has changed at all
    return Change(before=before, after=after, window=window, t=t, critical=student(2 * (n - 1) ** 2 / (3 * n - 4)))


def student(freedom: float) -> float:
    """Return the 99.5 % quantile of Student's t.

    Cornish and Fisher's expansion around the normal quantile, within 2 % from 4 degrees of freedom on.
    """
    z = NORMAL_QUANTILE
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def verdict(metrics: Sequence[dict[str, float]]) -> str:
    """Say in words whether the reward rose, and how that was decided."""
    rewards = [line["reward/mean"] for line in metrics if "reward/mean" in line]
    rates = [line["reward/correct_rate"] for line in metrics if "reward/correct_rate" in line]
    found = change(rewards)
    if found is None:
        return (
            f"too few steps with a reward to tell whether it learned: {len(rewards)}, at least {LEAST_STEPS} are needed"
        )
    span = f"reward {found.before:.3f} → {found.after:.3f}"
    rate = change(rates)
    if rate is not None:
        span += f", correct {rate.before:.0%} → {rate.after:.0%}"
    words = "no clear change" if not found.clear else "it learned" if found.t > 0 else "it got worse"
    test = (
        f"means of the first and the last {found.window} steps; t = {found.t:.1f}, clear beyond ±{found.critical:.1f}"
    )
    return f"{words}: {span}\n({test}; steps taken as independent)"


def held_out(metrics: Sequence[dict[str, float]], best: dict[str, float] | None) -> list[str]:
    """Say what the held-out score was at its first and its last evaluation, and the score on the test split."""
    scored = [line for line in metrics if "eval/score" in line]
    lines = []
    if scored:
        first, last = scored[0], scored[-1]
        text = f"held-out {last['eval/score']:.3f}{_error(last, 'eval/score_se')} at step {last['step']:.0f}"
        if len(scored) > 1:
            text += f", {first['eval/score']:.3f}{_error(first, 'eval/score_se')} at step {first['step']:.0f}"
        if best is not None and best["step"] != last["step"]:
            text += f"; best {best['score']:.3f} at step {best['step']:.0f}"
        if "eval/gap" in last:
            text += f"; train minus held-out {last['eval/gap']:+.3f}"
        lines.append(text)
    lines += [
        f"test {line['test/score']:.3f}{_error(line, 'test/score_se')}" for line in metrics if "test/score" in line
    ]
    return lines


def _error(line: dict[str, float], key: str) -> str:
    return f" ± {line[key]:.3f}" if key in line else ""


def problems(record: RunRecord) -> list[str]:
    """Return a line for each rule of health that was broken: what, when, and what to do about it."""
    lines = []
    for problem in record.problems:
        until = f" to {problem['until']}" if problem["until"] is not None else ""
        lines.append(f"problem at step {problem['step']}{until}: {problem['message']}; {problem['hint']}")
    return lines


def summarise(run_dir: Path) -> str:
    """Return the last words on a run that has ended, however it did."""
    record, metrics = RunRecord.read(run_dir), read_metrics(run_dir)
    spent = f" in {duration(record.active_seconds or record.ended - record.started)}" if record.ended else ""
    state = "interrupted" if record.state == "running" else record.state  # ended before it could say so
    paid = f", {money.text(amounts)}" if (amounts := money.spent([run_dir])) else ""
    lines = ["", f"{record.name}: {state}, {record.steps_done} of {record.max_steps} steps{spent}{paid}"]
    lines.append(textwrap.indent(verdict(metrics), "  "))
    lines += [f"  {line}" for line in [*held_out(metrics, record.best), *problems(record)]]
    lines += ["", *places(run_dir, record)]
    lines += ["", "next:", *next_commands(run_dir, record), ""]
    return "\n".join(lines)


def places(run_dir: Path, record: RunRecord) -> list[str]:
    """Return where a run's things are, those that there are."""
    best = [path for name in ("adapter-best", "model-best") if (path := run_dir / name).is_dir()]
    stacks = run_dir / "stacks.txt"
    named = [
        ("run", run_dir),
        (
            "model" if record.artifact.endswith("model") else "adapter",
            Path(record.artifact) if record.artifact else None,
        ),
        ("best", best[0] if best else None),
        ("completions", run_dir / "rollouts"),
        ("checkpoints", run_dir / "checkpoints"),
        ("plots", run_dir / "plots"),
        ("log", run_dir / "log.txt"),
        ("stacks", stacks if stacks.exists() and stacks.stat().st_size else None),  # empty while nothing stalls
    ]
    return [f"  {name:<12} {shown(path)}" for name, path in named if path is not None and path.exists()]


def program() -> str:
    """Return how to call this program: by its name where the shell finds it, else as it was called."""
    called = Path(sys.argv[0])
    return "retrain" if shutil.which("retrain") or called.name != "retrain" else shown(called)


def next_commands(run_dir: Path, record: RunRecord) -> list[str]:
    """Return what to type next: look, repeat, or go on."""
    run, retrain = shown(run_dir), program()
    commands = [] if record.state == "done" else [(f"{retrain} resume {run}", "go on where it stopped")]
    if kept := sorted((run_dir / "debug").glob("step-*.pt"), key=lambda file: file.stat().st_mtime):
        commands.append((f"{retrain} debug-batch {shown(kept[-1])}", "which completion and which weight failed"))
    if record.tracking_uri != "none":
        commands.append((f"{retrain} ui {run}", "its curves and completions in the tracker"))
    if (run_dir / "rollouts").exists():
        commands.append((f"{retrain} rollouts {run}", "read its completions, coloured by advantage"))
    commands.append((f"{retrain} {run}/config.toml --seed {record.seed + 1}", "the same with another seed"))
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}  {what}" for command, what in commands]
