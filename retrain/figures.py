"""The figures of a report as SVG text: curves with seed bands, seeds with intervals, differences, a matrix.

Nothing outside the file is needed and nothing is drawn by a script. Colours are the page's CSS classes: `c0` is the
baseline, `c1` the next condition, and so on. Tooltips are `<title>` elements.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from retrain.compare import Comparison, Condition
    from retrain.study import Study

POINTS = 100  # of a curve; longer ones are averaged down to so many
COLOURS = 8
ROW = 30  # height of a condition's row


@dataclass(frozen=True)
class Scale:
    """A linear map of values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """Return round numbers inside the range, about `count`."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Sequence[float], start: float, end: float, margin: float = 0.05) -> Scale:
    """Return a scale that holds all finite values, with some room."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = margin * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - room, high + room, start, end)


def svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    body = "".join(parts)
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
    return f"{head}<title>{html.escape(label)}</title>{body}</svg>"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def axes(x: Scale, y: Scale, count: int) -> list[str]:
    """Return horizontal grid lines and the numbers at both axes."""
    parts = [line(x.start, y(v), x.end, y(v), "grid") for v in y.ticks(4)]
    parts += [text(x.start - 5, y(v) + 4, f"{v:g}", anchor="end") for v in y.ticks(4)]
    return parts + [text(x(v), y.start + 16, f"{v:g}", anchor="middle") for v in x.ticks(count)]


# --- curves -----------------------------------------------------------------------------------------------------------


def band(found: Study, label: str, key: str) -> np.ndarray | None:
    """Return rows of step, mean, lowest and highest over the runs that have reached the step; None: no run has."""
    values: dict[float, list[float]] = {}
    for run in found.of(label):
        for step, value in zip(*run.series(key), strict=True):
            values.setdefault(float(step), []).append(float(value))
    if not values:
        return None
    rows = np.array([[s, np.mean(v), min(v), max(v)] for s, v in sorted(values.items())])
    if len(rows) <= POINTS:
        return rows
    return np.array([part.mean(axis=0) for part in np.array_split(rows, POINTS)])


def curves(found: Study, key: str, title: str, *, width: int = 520, height: int = 260) -> str:
    """Draw a metric over steps: a line for the mean of each condition, a band from its lowest to its highest seed."""
    bands = [(i, label, rows) for i, label in enumerate(found.labels) if (rows := band(found, label, key)) is not None]
    if not bands:
        return ""
    x = scale([float(rows[j, 0]) for _, _, rows in bands for j in (0, -1)], 44, width - 8, 0.0)
    y = scale([float(v) for _, _, rows in bands for v in rows[:, 1:].flat], height - 22, 8)
    parts = axes(x, y, 6)
    for i, label, rows in bands:
        upper = [f"{x(s):.1f},{y(v):.1f}" for s, _, _, v in rows]
        lower = [f"{x(s):.1f},{y(v):.1f}" for s, _, v, _ in rows[::-1]]
        mean = [f"{x(s):.1f},{y(v):.1f}" for s, v, _, _ in rows]
        kind = f"c{i % COLOURS}"
        parts.append(f'<g class="{kind}"><title>{html.escape(label)}</title>')
        parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
        parts.append(f'<polyline class="mean" points="{" ".join(mean)}"/></g>')
    return svg(width, height, f"{title} over steps", parts)


# --- trials -----------------------------------------------------------------------------------------------------------


def scatter(xs: Sequence[Any], ys: Sequence[float], name: str, metric: str) -> str:
    """Draw a value against a key: names side by side, numbers on a line, by order of magnitude where they span some."""
    width, height = 520, 220
    are_numbers = all(isinstance(x, int | float) for x in xs)
    is_log = are_numbers and min(xs) > 0 and max(xs) > 30 * min(xs)
    names = [] if are_numbers else sorted(set(map(str, xs)))
    at = (
        [math.log10(x) if is_log else float(x) for x in xs] if are_numbers else [float(names.index(str(x))) for x in xs]
    )
    x, y = scale(at, 44, width - 8), scale(ys, height - 22, 8)
    parts = [line(x.start, y(v), x.end, y(v), "grid") for v in y.ticks(4)]
    parts += [text(x.start - 5, y(v) + 4, f"{v:g}", anchor="end") for v in y.ticks(4)]
    ticks = [(v, f"{10**v:.1g}" if is_log else f"{v:g}") for v in x.ticks(5)] if are_numbers else enumerate(names)
    parts += [text(x(v), y.start + 16, words[:24], anchor="middle") for v, words in ticks]
    for place, given, value in zip(at, xs, ys, strict=True):
        tip = f"<title>{html.escape(f'{name} = {given}: {value:.4g}')}</title>"
        parts.append(f'<circle class="dot" cx="{x(place):.1f}" cy="{y(value):.1f}" r="4.5">{tip}</circle>')
    return svg(width, height, f"{metric} by {name}", parts)


# --- seeds and differences --------------------------------------------------------------------------------------------


def rows_of(
    labels: Sequence[str], values: Sequence[float], draw: Callable[[int, float, Scale], Sequence[str]], label: str
) -> str:
    """Draw a row for each condition over one horizontal axis."""
    left = min(260, 24 + 7 * max(map(len, labels)))
    width, height = left + 480, ROW * len(labels) + 28
    x = scale(values, left, width - 12)
    parts = [line(x(v), 4, x(v), height - 22, "grid") for v in x.ticks(6)]
    parts += [text(x(v), height - 6, f"{v:g}", anchor="middle") for v in x.ticks(6)]
    for i, name in enumerate(labels):
        middle = ROW * i + ROW / 2 + 2
        parts.append(text(left - 10, middle + 4, name if len(name) < 36 else f"{name[:34]}…", "label", "end"))
        parts += draw(i, middle, x)
    return svg(width, height, label, parts)


def dots(conditions: Sequence[Condition], metric: str) -> str:
    """Draw each seed's value as a dot, and the mean with its 95 % interval."""

    def row(i: int, y: float, x: Scale) -> list[str]:
        one = conditions[i]
        parts = [f'<g class="c{i % COLOURS}">']
        if math.isfinite(one.low):
            parts.append(line(x(one.low), y, x(one.high), y, "interval"))
        if math.isfinite(one.mean):
            parts.append(line(x(one.mean), y - 9, x(one.mean), y + 9, "mean"))
        for seed, value in one.values.items():
            tip = f"<title>seed {seed}: {value:.4g}</title>"
            parts.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y:.1f}" r="3.5">{tip}</circle>')
        return [*parts, "</g>"]

    values = [v for one in conditions for v in (one.low, one.high, *one.values.values())]
    return rows_of([one.label for one in conditions], values, row, f"{metric} of each seed, with 95 % intervals")


def forest(comparisons: Sequence[Comparison], min_effect: float) -> str:
    """Draw the differences to the baseline with their simultaneous intervals, and the margin that matters."""

    def row(i: int, y: float, x: Scale) -> list[str]:
        one = comparisons[i]
        parts = []
        if i == 0:
            bottom = ROW * len(comparisons) + 4
            if min_effect > 0:
                wide = x(min_effect) - x(-min_effect)
                tip = f"<title>±{min_effect:g}</title>"
                parts.append(f'<rect class="margin" x="{x(-min_effect):.1f}" y="4" width="{wide:.1f}" height="{bottom - 4}">{tip}</rect>')  # fmt: skip  # noqa: E501  one element
            parts.append(line(x(0), 4, x(0), bottom, "zero"))
        kind = {"better": "up", "worse": "down"}.get(one.verdict, "unsure")
        parts.append(f'<g class="{kind}">')
        if math.isfinite(one.low):
            parts.append(line(x(one.low), y, x(one.high), y, "interval"))
        if math.isfinite(one.problems_low):
            parts.append(line(x(one.problems_low), y, x(one.problems_high), y, "wider"))
        if math.isfinite(one.difference):
            tip = f"<title>{html.escape(one.sentence)}</title>"
            parts.append(f'<circle class="dot" cx="{x(one.difference):.1f}" cy="{y:.1f}" r="4.5">{tip}</circle>')
        return [*parts, "</g>"]

    ends = [v for c in comparisons for v in (c.low, c.high, c.problems_low, c.problems_high, c.difference)]
    values = [*ends, 0.0, min_effect, -min_effect]
    return rows_of([c.label for c in comparisons], values, row, "differences to the baseline, with intervals")
