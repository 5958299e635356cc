"""How the state of runs looks: a table, one run in detail, one line. Plain text, coloured only on a terminal."""

from __future__ import annotations

import shlex
import textwrap
import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TextIO

from retrain.cli import output
from retrain.cli.progress import duration, shown
from retrain.errors import ConfigError
from retrain.references import OUTPUTS
from retrain.runs import age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from retrain.runs import RunState

COLOURS = {"running": 36, "done": 32, "failed": 31, "interrupted": 33, "stalled": 35, "damaged": 31}  # ANSI
DIM = 2
ENDED = ("done", "failed", "interrupted", "damaged")
COLUMNS = ("run", "state", "step", "doing", "reward", "correct", "held-out", "time")
DROPPED = ("correct", "doing", "time", "held-out", "reward", "running", "failed")  # on a narrow terminal, in this order
RIGHT = ("step", "reward", "correct", "held-out")
GAP = "  "
NARROWEST = 12  # columns of a run's name
IDLE_SECONDS, IDLE_SHARE = 60.0, 0.05  # what lay idle for longer than both is told apart from what was worked on


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the place can show. width: None where lines may be of any length; unicode: marks and bars of curves."""

    width: int | None = None
    colour: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Self:
        unicode = "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()
        return cls(width=output.columns(stream), colour=output.coloured(stream), unicode=unicode)

    def paint(self, text: str, code: int | None) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code is not None else text

    def fold(self, text: str, indent: str) -> list[str]:
        """Break a text into lines of the width, the later ones indented twice."""
        if self.width is None:
            return [indent + text]
        return textwrap.wrap(text, self.width, initial_indent=indent, subsequent_indent=2 * indent)


# --- the table ------------------------------------------------------------------------------------------------------


def table(states: Sequence[RunState], style: Style, now: float) -> str:
    """Return a line a run, and under one in trouble its likely cause and what to type."""
    rows = [row(state, now) for state in states]
    widths = {name: max(columns(cell) for cell in (name, *(cells[name] for cells in rows))) for name in COLUMNS}
    fit(widths, style.width)
    lines = [style.paint(spaced({name: name for name in COLUMNS}, widths), DIM)]
    for state, cells in zip(states, rows, strict=True):
        lines.append(spaced(cells, widths, lambda text, state=state: style.paint(text, COLOURS.get(state.state))))
        if state.cause:
            lines += style.fold(visible(state.cause), "    ")
            lines += [part for remedy in remedies(state) for part in style.fold(remedy, "    ")]
    return "\n".join(lines)


def remedies(state: RunState) -> list[str]:
    """Return what to do about a run in trouble: what to type, or the hint of the rule that is broken."""
    if state.state == "stalled":
        return [" and then ".join(command for command, _ in commands(state)[:2])]
    if state.state in ("failed", "interrupted"):
        return [commands(state)[0][0]]
    return [visible(str(problem["hint"])) for problem in state.problems[-1:] if problem.get("hint")]


def row(state: RunState, now: float) -> dict[str, str]:
    """Return a run's cells; what is not known is a dash."""
    doing = state.phase
    if state.state in ENDED:
        doing = "" if state.ended is None else f"{age(now - state.ended)} ago"
    elif state.phase_seconds is not None:
        doing += f" {duration(state.phase_seconds)}"
    spent = ""
    if state.eta_seconds is not None:
        spent = f"{duration(state.eta_seconds)} left"
    elif state.ended is not None and state.started is not None:
        spent = took(state.started, state.ended, state.active_seconds)
    known = {
        "run": visible(name_of(state.directory)),
        "state": state.state,
        "step": f"{state.steps_done}/{state.max_steps}" if state.max_steps else "",
        "doing": visible(doing),
        "reward": number(state.reward),
        "correct": "" if state.correct_rate is None else f"{state.correct_rate:.0%}",
        "held-out": number(state.eval_score),
        "time": spent,
    }
    return {name: cell or "-" for name, cell in known.items()}


def fit(widths: dict[str, int], width: int | None) -> None:
    """Drop columns until a line fits, the least telling ones first; then shorten the names of runs."""
    for name in DROPPED:
        if width is None or total(widths) <= width:
            return
        widths.pop(name, None)
    if width is not None and total(widths) > width:
        widths["run"] = max(NARROWEST, widths["run"] - total(widths) + width)


def total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def spaced(cells: dict[str, str], widths: dict[str, int], paint_state: Callable[[str], str] = str) -> str:
    """Return the cells of one line, those that are shown, at their places."""
    written = []
    for name, width in widths.items():
        cell = cells[name] if columns(cells[name]) <= width else f"…{cells[name][1 - width :]}"
        padding = " " * (width - columns(cell))
        text = paint_state(cell) if name == "state" else cell
        written.append(padding + text if name in RIGHT else text + padding)
    return GAP.join(written).rstrip()


def took(started: float, ended: float, active_seconds: float | None) -> str:
    """Say how long a run or a campaign was worked on, and how long it took in all where it lay idle in between."""
    span = max(0.0, ended - started)
    worked = span if active_seconds is None else min(active_seconds, span)
    if span - worked < max(IDLE_SECONDS, IDLE_SHARE * span):
        return f"took {duration(span)}"
    return f"took {duration(worked)} ({duration(span)} from start to end)"


def line(state: RunState, now: float) -> str:
    """Return a run in one line, for a log that grows."""
    cells = row(state, now)
    facts = [cells["run"], cells["state"], f"step {cells['step']}"]
    facts += [] if state.state in ENDED or not state.phase else [visible(state.phase)]
    named = (("reward", "reward"), ("correct", "correct"), ("held-out", "held-out"), ("time", ""))
    facts += [f"{label} {cells[name]}".strip() for name, label in named if cells[name] != "-"]
    facts += [visible(state.cause)] if state.cause else []
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}  {' · '.join(facts)}"


# --- one run --------------------------------------------------------------------------------------------------------


def detail(state: RunState, style: Style, now: float) -> str:
    """Return everything about one run, and what to type next."""
    facts = {"state": style.paint(state.state, COLOURS.get(state.state)) + doing_now(state, now), **progress(state)}
    facts |= {"tracker": "; ".join(behind(state)), "directory": shown(state.directory), **files(state)}
    lines = [visible(state.name)]
    lines += [f"  {name:<12} {value}" for name, value in facts.items() if value]
    if state.cause and state.state not in ("running", "done"):  # else it is one of the problems, which follow
        lines += ["", "likely cause of trouble:", *style.fold(visible(state.cause), "  ")]
    for problem in state.problems:
        said = f"{problem.get('rule', 'problem')} since step {problem.get('step', '?')}: {problem.get('message', '')}"
        lines += ["", *style.fold(visible(said), "  "), *style.fold(visible(str(problem.get("hint", ""))), "    ")]
    if found := commands(state):
        width = max(len(command) for command, _ in found)
        lines += ["", "next:", *(f"  {command:<{width}}  {what}" for command, what in found)]
    return "\n".join(lines)


def doing_now(state: RunState, now: float) -> str:
    """Return what stands behind the state: the phase and its age, or when the run ended."""
    if state.state in ENDED:
        return "" if state.ended is None else f", {moment(state.ended)}, {age(now - state.ended)} ago"
    where = f" (process {state.record.pid} on {visible(state.record.host)})" if state.record else ""
    if not state.phase:
        return where
    since = "" if state.phase_seconds is None else f" for {duration(state.phase_seconds)}"
    return f", {visible(state.phase)}{since}{where}"


def progress(state: RunState) -> dict[str, str]:
    """Return how far a run is and what it has reached."""
    steps = f"{state.steps_done} of {state.max_steps}" if state.max_steps else ""
    if state.seconds_per_step is not None:
        steps += f", {state.seconds_per_step:.3g} s a step"
    if state.eta_seconds is not None:
        steps += f", {duration(state.eta_seconds)} left"
    correct = "" if state.correct_rate is None else f", {state.correct_rate:.0%} correct"
    held_out = "" if state.eval_score is None else f"{number(state.eval_score)} at step {state.eval_step}"
    if state.best_score is not None:
        held_out += f"{', ' if held_out else ''}best {number(state.best_score)} at step {state.best_step}"
    return {
        "started": "" if state.started is None else moment(state.started),
        "steps": steps,
        "reward": "" if state.reward is None else number(state.reward) + correct,
        "held-out": held_out,
    }


def behind(state: RunState) -> list[str]:
    """Return what a tracker misses of a run, and why; of one that goes on, only what is more than the last step."""
    from retrain import tracking

    if state.record is None:
        return []
    try:
        missing = tracking.pending(state.directory)
    except (ConfigError, ValueError, KeyError):  # a damaged file, which the state has coped with
        return []
    ended, run = state.state in ENDED, shlex.quote(shown(state.directory))
    said = []
    for item in missing:
        if ended or item.problem or item.steps - item.sent > 1:
            has = f"has steps up to {item.sent} of {item.steps}" if item.sent > 0 else "has nothing of it yet"
            why = f" ({visible(item.problem)})" if item.problem else ""
            said.append(f"{item.sink} {has}{why}" + (f"; retrain sync {run}" if ended else ""))
    return said


def files(state: RunState) -> dict[str, str]:
    """Return where the things are that one looks for, those that there are."""
    saved = [path for path in (state.directory / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    saved.sort(key=lambda path: int(path.name[5:]))
    best = [path for path in (state.directory / "adapter-best", state.directory / "model-best") if path.is_dir()]
    stacks = [state.directory / state.stacks] if state.stacks else []
    found = {"checkpoint": saved[-1:], "best": best, "stacks": stacks, "log": [state.directory / "log.txt"]}
    return {name: shown(paths[-1]) for name, paths in found.items() if paths and paths[-1].exists()}


def commands(state: RunState) -> list[tuple[str, str]]:
    """Return what to type next, the most useful first, each with what it does."""
    run = shlex.quote(shown(state.directory))
    go_on = (f"retrain resume {run}", "go on from its last checkpoint")
    found = []
    if state.state in ("failed", "interrupted"):
        found.append(go_on)
    if state.state == "stalled" and state.record is not None:
        found += [(f"kill {state.record.pid}", f"on {visible(state.record.host)}: end it, then"), go_on]
    if state.state == "running":
        found.append((f"retrain status {run} --watch", "look on"))
    if (state.directory / "rollouts").is_dir():
        found.append((f"retrain rollouts {run}", "read its completions, coloured by advantage"))
    if state.record is not None and state.record.tracking_uri != "none":
        found.append((f"retrain ui {run}", "its curves and completions in the tracker"))
    return found


# --- words ----------------------------------------------------------------------------------------------------------


def name_of(run: Path) -> str:
    """Return what is typed for a run: without outputs/, which references look through."""
    text = shown(run)
    return text.removeprefix(f"{OUTPUTS}/")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def visible(text: str) -> str:
    """Return a text in one line, without what would steer a terminal: names and reasons come from anywhere."""
    return "".join(char if char.isprintable() else "·" for char in " ".join(text.split()))


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
