"""Figures of one run, from its metrics: reward, completion length, entropy, time. Drawn by the follower's process only.

matplotlib's figures are used without pyplot: no global state, so that any thread may draw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

Line = Mapping[str, float]

SIZE = (7.0, 3.6)  # inches
DPI = 130
BLUE, ORANGE, GREEN, VIOLET, GREY = "#2f6fde", "#e08a1e", "#12925a", "#8a4fd0", "#7a8794"
PHASES = (("generate", BLUE), ("score", ORANGE), ("train", GREEN))
MAX_BARS = 120  # beyond this, neighbouring steps are averaged: a bar stays wider than a pixel


def draw(lines: Sequence[Line], folder: Path, *, title: str = "") -> list[Path]:
    """Draw what `lines` (of metrics.jsonl) hold values for, as ``folder/<name>.png``; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Axes, Sequence[Line]], bool]] = {
        "reward": _reward,
        "length": _length,
        "entropy": _entropy,
        "time": _time,
    }
    drawn = []
    for name, plot in figures.items():
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        if not plot(axes, lines):
            continue
        _dress(axes, title)
        drawn.append(_save(figure, folder / f"{name}.png"))
    return drawn


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over a window centred on each value and cut at both ends, so that the curve neither lags nor starts late.

    >>> running_mean([0, 3, 6, 3], 3)
    [1.5, 3.0, 4.0, 4.5]
    """
    half = window // 2
    parts = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _series(lines: Sequence[Line], key: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of a metric."""
    points = [(line["step"], line[key]) for line in lines if math.isfinite(line.get(key, math.nan))]
    return [step for step, _ in points], [value for _, value in points]


def _curve(axes: Axes, lines: Sequence[Line], key: str, label: str, colour: str) -> bool:
    """Raw points, light, and their running mean, dark; False when there are none."""
    steps, values = _series(lines, key)
    if not steps:
        return False
    window = max(3, len(values) // 10) | 1  # odd: as many steps before as after
    axes.plot(steps, values, ".", color=colour, alpha=0.4, markersize=6, markeredgewidth=0)
    axes.plot(steps, running_mean(values, window), color=colour, linewidth=2, label=label)
    axes.set_xlabel(f"step (points: one step, line: mean of {window})")
    return True


def _reward(axes: Axes, lines: Sequence[Line]) -> bool:
    correct, mean = _series(lines, "reward/correct_rate"), _series(lines, "reward/mean")
    same = correct[0] == mean[0] and all(abs(a - b) < 1e-9 for a, b in zip(correct[1], mean[1], strict=True))
    found = _curve(axes, lines, "reward/correct_rate", "correct rate", BLUE)
    if not same:
        found |= _curve(axes, lines, "reward/mean", "mean reward", ORANGE)
    axes.set_ylabel("per completion")
    if all(0 <= value <= 1 for value in correct[1] + mean[1]):
        axes.set_ylim(-0.03, 1.03)
    axes.set_title("Correct rate (the mean reward is the same)" if same else "Reward")
    return found


def _length(axes: Axes, lines: Sequence[Line]) -> bool:
    found = _curve(axes, lines, "completion/length_mean", "mean", BLUE)
    steps, longest = _series(lines, "completion/length_max")
    if longest:
        axes.plot(steps, longest, color=GREY, alpha=0.7, linewidth=1, drawstyle="steps-mid", label="longest")
    axes.set_ylabel("tokens")
    axes.set_ylim(bottom=0)
    axes.set_title("Completion length")
    return found


def _entropy(axes: Axes, lines: Sequence[Line]) -> bool:
    found = _curve(axes, lines, "entropy/mean", "mean", VIOLET)
    axes.set_ylabel("nats per token")
    axes.set_ylim(bottom=0)
    axes.set_title("Policy entropy, mean over completion tokens")
    return found


def _time(axes: Axes, lines: Sequence[Line]) -> bool:
    """Bars of shares, one a step; what no phase accounts for is "other"."""
    timed = [line for line in lines if line.get("time/total", 0.0) > 0]
    if not timed:
        return False
    stride = -(-len(timed) // MAX_BARS)
    parts = [timed[start : start + stride] for start in range(0, len(timed), stride)]
    totals = [sum(line["time/total"] for line in part) for part in parts]
    centres = [(part[0]["step"] + part[-1]["step"]) / 2 for part in parts]
    seconds = sum(totals)
    base = [0.0] * len(parts)
    for phase, colour in PHASES:
        spent = [sum(line.get(f"time/{phase}", 0.0) for line in part) for part in parts]
        share = [min(1 - below, one / total) for one, total, below in zip(spent, totals, base, strict=True)]
        label = f"{phase} {sum(spent) / seconds:.0%}"
        axes.bar(centres, share, width=stride, bottom=base, color=colour, label=label, linewidth=0)
        base = [below + one for below, one in zip(base, share, strict=True)]
    other = [1 - below for below in base]
    rest = sum(one * total for one, total in zip(other, totals, strict=True)) / seconds
    axes.bar(centres, other, width=stride, bottom=base, color="#d5dae0", label=f"other {rest:.0%}", linewidth=0)
    axes.set_ylim(0, 1)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("share of the step")
    axes.set_title(f"Time: {seconds / len(timed):.3g} s a step")
    return True


def _dress(axes: Axes, title: str) -> None:
    """What every figure has: subject on the left, run on the right, a legend where there is a choice."""
    subject = axes.get_title()
    axes.set_title(subject, loc="left", fontsize=11, fontweight="bold")
    axes.set_title(title, loc="right", fontsize=8, color=GREY)
    axes.set_title("")
    axes.set_xlabel(axes.get_xlabel() or "step", fontsize=9, color="#44505c")
    axes.yaxis.label.set(fontsize=9, color="#44505c")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors="#44505c", labelsize=8)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _save(figure: Figure, path: Path) -> Path:
    """Write aside and rename, so that a viewer never opens half a picture."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.png")
    FigureCanvasAgg(figure).print_png(aside)
    aside.replace(path)
    return path
