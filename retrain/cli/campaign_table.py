"""How a campaign looks: a line in a list, a matrix of conditions and seeds, the runs in trouble. Plain text."""

from __future__ import annotations

import math
import shlex
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from retrain import money
from retrain.campaign.state import TROUBLED, UNFINISHED, Curves
from retrain.cli import status_view
from retrain.cli.progress import duration, shown
from retrain.cli.status_view import COLOURS, DIM, GAP, columns, visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.campaign.state import CampaignState, Cell
    from retrain.cli.status_view import Style

MARKS = {
    "done": "✓", "running": "●", "stalled": "◌", "failed": "✗", "interrupted": "‖", "damaged": "?", "planned": "·",
}  # fmt: skip
PLAIN_MARKS = {
    "done": "+", "running": ">", "stalled": "~", "failed": "x", "interrupted": "!", "damaged": "?", "planned": ".",
}  # fmt: skip
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
BAR_WIDTH = 8  # columns of a curve
WIDEST_LABEL = 28
LISTED_TRIALS = 12  # of a search; all are in its report
LISTED_TROUBLE = 10  # runs whose trouble is shown; of more it is said how many

# --- the list -------------------------------------------------------------------------------------------------------


def table(states: Sequence[CampaignState], style: Style) -> str:
    """Return a line a campaign, and under one in trouble its likely cause and what to type."""
    head = {"run": "campaign", "state": "state", "done": "done", "failed": "failed", "running": "running", "time": ""}
    rows = [row(state) for state in states]
    widths = {name: max(columns(cells[name]) for cells in [head, *rows]) for name in head}
    status_view.fit(widths, style.width)
    lines = [style.paint(status_view.spaced(head, widths), DIM)]
    for state, cells in zip(states, rows, strict=True):
        lines.append(
            status_view.spaced(cells, widths, lambda text, state=state: style.paint(text, COLOURS.get(state.state)))
        )
        if trouble := in_short(state):
            lines += [*style.fold(visible(trouble), "    "), *style.fold(commands(state)[0][0], "    ")]
    return "\n".join(lines)


def row(state: CampaignState) -> dict[str, str]:
    """Return a campaign's cells in the list; what is not known is a dash."""
    counts = state.counts
    known = {
        "run": visible(status_view.name_of(state.directory)),
        "state": state.state,
        "done": f"{counts.get('done', 0)}/{state.number}" if state.cells else "",
        "failed": str(counts.get("failed", 0) or ""),
        "running": str(counts.get("running", 0) or ""),
        "time": spent(state),
    }
    return {name: cell or "-" for name, cell in known.items()}


def spent(state: CampaignState) -> str:
    """Return the time that is left, or that it took."""
    if state.eta_seconds is not None:
        return f"{duration(state.eta_seconds)} left"
    if state.ended is not None and state.started is not None:
        return status_view.took(state.started, state.ended, state.active_seconds)
    return ""


def in_short(state: CampaignState) -> str:
    """Return the trouble of a campaign in a line; empty when there is none."""
    said = [state.cause] if state.cause and state.state not in ("done", "running") else []
    troubled = [cell for cell in state.cells if cell.state in TROUBLED]
    if troubled:
        first = f"{troubled[0].name} {troubled[0].state}: {troubled[0].cause}".removesuffix(": ")
        said.append(first + (f" (and {len(troubled) - 1} more)" if len(troubled) > 1 else ""))
    return "; ".join(said)


def counted(state: CampaignState) -> str:
    """Return how many runs are in which state: ``7 of 20 done, 1 failed, 2 running, 10 planned``."""
    counts, order = state.counts, [name for name in MARKS if name != "done"]
    said = [f"{counts.get('done', 0)} of {state.number} done"]
    said += [f"{counts[name]} {name}" for name in order if counts.get(name)]
    return ", ".join(said + [f"{state.unasked} to be asked for"] * bool(state.unasked))


# --- one campaign ---------------------------------------------------------------------------------------------------


def detail(state: CampaignState, style: Style, now: float, curves: Curves | None = None) -> str:
    """Return everything about one campaign, and what to type next."""
    lines = heading(state, style, now)
    if state.cells:
        lines += ["", *matrix(state, style, curves or Curves())]
    lines += troubles(state, style)
    if found := commands(state):
        width = max(len(command) for command, _ in found)
        lines += ["", "next:", *(f"  {command:<{width}}  {what}" for command, what in found)]
    return "\n".join(lines)


def heading(state: CampaignState, style: Style, now: float) -> list[str]:
    """Return the facts above the matrix."""
    where = f" (process {state.pid} on {visible(state.host)})" if state.state in ("running", "stalled") else ""
    if state.ended is not None and state.state not in UNFINISHED:
        where = f", {status_view.moment(state.ended)}, {status_view.age(now - state.ended)} ago"
    side_by_side = f", {state.max_workers} at once" if state.max_workers > 1 else ""
    steps = f"{state.steps_done:,} of {state.max_steps:,}" if state.max_steps else ""
    facts = {
        "state": style.paint(state.state, COLOURS.get(state.state)) + where,
        "runs": counted(state) + side_by_side if state.cells else "",
        "steps": ", ".join(filter(None, [steps, spent(state)])),
        "cost": money.text(state.money),
        "directory": shown(state.directory),
    }
    lines = [visible(state.name)]
    lines += [part for name, value in facts.items() if value for part in [f"  {name:<12} {value}"]]
    if state.cause and state.state != "done":
        lines += ["", "likely cause of trouble:", *style.fold(visible(state.cause), "  ")]
    return lines


def troubles(state: CampaignState, style: Style) -> list[str]:
    """Return the runs in trouble, each with its likely cause and where to look."""
    troubled = [cell for cell in state.cells if cell.state in TROUBLED or cell.cause]
    if not troubled:
        return []
    lines = ["", "in trouble:"]
    for cell in troubled[:LISTED_TROUBLE]:
        again = f" after {cell.attempts} attempts" if cell.attempts > 1 else ""
        lines.append(f"  {visible(cell.name)}: {style.paint(cell.state, COLOURS.get(cell.state))}{again}")
        lines += style.fold(visible(cell.cause), "    ") if cell.cause else []
        lines += style.fold(remedy(cell), "    ")
    more = len(troubled) - LISTED_TROUBLE
    return lines if more <= 0 else [*lines, f"  … and {more} more: retrain status --json {place(state.directory)}"]


def remedy(cell: Cell) -> str:
    """Return where to look for what was wrong with a run."""
    return f"retrain status {place(cell.directory)}" if cell.run is not None else f"see {shown(cell.directory)}"


def commands(state: CampaignState) -> list[tuple[str, str]]:
    """Return what to type next, the most useful first, each with what it does."""
    campaign, goes_on = place(state.directory), state.state in ("running", "stalled")
    found = [(f"retrain status {campaign} --watch", "look on")] if goes_on else []
    answered = ("done", "failed") if state.direction else ("done",)
    if not goes_on and (state.unasked or any(cell.state not in answered for cell in state.cells)):
        found.append((f"retrain resume {campaign}", "do what is missing, from the last checkpoints"))
    if not goes_on and state.counts.get("failed"):
        found.append((f"retrain resume {campaign} --retry-failed", "the same, failed runs from their beginning"))
    if state.counts.get("done"):
        what = "the trials, best first" if state.direction else "which condition is better, and how sure that is"
        found.append((f"retrain compare {campaign}", what))
    if not goes_on and (state.directory / "best.toml").is_file():
        best = place(state.directory / "best.toml")
        found.append((f"retrain {best}", "the best trial against the start of the search, on new seeds"))
    if state.tracking_uri != "none" and any(cell.run for cell in state.cells):
        found.append((f"retrain ui {campaign}", "all curves in the tracker, grouped by condition"))
    return found or [(f"retrain status {campaign}", "look again")]


def place(directory: Path) -> str:
    return shlex.quote(shown(directory))


# --- the matrix -----------------------------------------------------------------------------------------------------


def matrix(state: CampaignState, style: Style, curves: Curves, *, bars: bool = True) -> list[str]:
    """Return conditions × seeds: a line with mark, steps and metric of each run, and one with its reward's curve.

    Where a line does not fit, steps of finished runs are left out; then the seeds are broken into several blocks.
    """
    marks = MARKS if style.unicode else PLAIN_MARKS
    listed = set(shown_labels(state))
    cells = {(cell.label, cell.seed): cell for cell in state.cells if cell.label in listed}
    values = {key: buckets(curves.of(cell.directory)) for key, cell in cells.items()} if bars else {}
    ends = [value for row in values.values() for value in row]
    drawn = {key: sparkline(row, min(ends), max(ends), style) for key, row in values.items() if row}
    labels, seeds = shown_labels(state), state.seeds
    widest = WIDEST_LABEL if style.width is None else min(WIDEST_LABEL, max(len("condition"), style.width // 3))
    first = min(widest, max(columns(label) for label in ["condition", *labels]))
    for brief in (False, True):
        texts = {key: cell_text(cell, marks, brief=brief) for key, cell in cells.items()}
        column = max(columns(text) for text in [*texts.values(), *map(str, seeds), *drawn.values()])
        room = len(seeds) if style.width is None else max(1, (style.width - first) // (column + len(GAP)))
        if room >= len(seeds):
            break
    lines = []
    for at in range(0, len(seeds), room):
        block = seeds[at : at + room]
        head = GAP.join(["condition".ljust(first), *(f"{seed}".ljust(column) for seed in block)])
        lines += [""] * bool(lines) + [style.paint(head.rstrip(), DIM)]
        for label in labels:
            found = [((label, seed), cells.get((label, seed))) for seed in block]
            painted = [painted_text(texts.get(key, ""), cell, column, style) for key, cell in found]
            name = fitted(visible(label), first, style, start=bool(state.direction))
            lines.append(GAP.join([name, *painted]).rstrip())
            if any(key in drawn for key, _ in found):
                row = [drawn.get(key, "").ljust(column) for key, _ in found]
                lines.append(style.paint(GAP.join([" " * first, *row]).rstrip(), DIM))
    hidden = len(state.labels) - len(labels)
    more = [f"… and {hidden} trials more: retrain compare {place(state.directory)}"] * bool(hidden)
    return [*lines, *more, *legend(state, marks, style, ends)]


def shown_labels(state: CampaignState) -> list[str]:
    """Return the conditions that are shown; of a search those that go on, then the best ones."""
    if not state.direction:
        return state.labels
    sign = -1 if state.direction == "maximize" else 1
    rank: dict[str, tuple[bool, float]] = {}
    for cell in state.cells:
        is_over = cell.state in ("done", "failed")
        value = math.inf if cell.metric is None or cell.state == "failed" else sign * cell.metric
        before = rank.get(cell.label, (True, value))
        rank[cell.label] = (before[0] and is_over, min(before[1], value))
    return sorted(state.labels, key=rank.__getitem__)[:LISTED_TRIALS]


def cell_text(cell: Cell, marks: dict[str, str], *, brief: bool) -> str:
    """Return a run in the matrix: ``✓ 40/40 0.512``, briefly ``✓ 0.512``."""
    steps = f"{cell.steps_done}/{cell.max_steps}" if cell.run is not None and cell.max_steps else ""
    if brief and cell.state == "done" and cell.metric is not None:
        steps = ""
    metric = "" if cell.metric is None or (brief and steps) else status_view.number(cell.metric)
    return " ".join(filter(None, [marks[cell.state], steps, metric]))


def painted_text(text: str, cell: Cell | None, width: int, style: Style) -> str:
    padding = " " * (width - columns(text))
    return (style.paint(text, COLOURS.get(cell.state, DIM)) if cell else text) + padding


def fitted(text: str, width: int, style: Style, *, start: bool = False) -> str:
    """Return a label in so many columns; of one that is too long, the part that tells conditions apart.

    start: that is its start, as the number of a trial; else its end
    """
    if columns(text) > width:
        dots = "…" if style.unicode else "~"
        text = text[: width - 1] + dots if start else dots + text[1 - width :]
    return text + " " * (width - columns(text))


def legend(state: CampaignState, marks: dict[str, str], style: Style, ends: Sequence[float]) -> list[str]:
    """Return what the marks and curves mean."""
    used = GAP.join(f"{mark} {name}" for name, mark in marks.items() if state.counts.get(name))
    cells = f"steps done, {state.metric}" if state.metric else "steps done"
    if ends and max(ends) > min(ends):
        low, *_, high = BARS if style.unicode else PLAIN_BARS
        cells += f"; reward from {min(ends):.3f} {low} to {max(ends):.3f} {high}"
    elif ends:
        cells += f"; reward {ends[0]:.3f} everywhere"
    return ["", *(style.paint(line, DIM) for text in (used, cells) for line in style.fold(text, ""))]


def buckets(values: Sequence[float], width: int = BAR_WIDTH) -> list[float]:
    """Return the means of at most `width` stretches of a series, of equal length within one value."""
    count = min(width, len(values))
    edges = [round(at * len(values) / count) for at in range(count + 1)] if count else []
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def sparkline(values: Sequence[float], low: float, high: float, style: Style) -> str:
    """Draw a series as bars between two values that are common to all runs."""
    bars, span = BARS if style.unicode else PLAIN_BARS, high - low
    return "".join(bars[min(len(bars) - 1, int((value - low) / span * len(bars))) if span else 0] for value in values)


# --- for a log that grows -------------------------------------------------------------------------------------------


def news(state: CampaignState, now: float) -> str:
    """Return a campaign in one line."""
    facts = [visible(state.name), state.state, counted(state), spent(state), visible(state.cause)]
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}  {' · '.join(filter(None, facts))}"


def line(state: CampaignState, cell: Cell, now: float) -> str:
    """Return a run of a campaign in one line."""
    facts = [visible(f"{state.name} {cell.name}"), cell.state]
    facts += [f"step {cell.steps_done}/{cell.max_steps}"] if cell.run is not None and cell.max_steps else []
    facts += [f"{state.metric} {cell.metric:.3f}"] if cell.metric is not None else []
    facts += [visible(cell.cause)] if cell.cause else []
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}  {' · '.join(facts)}"
