"""`retrain status`: what has become of the runs and campaigns here, and what to do about those in trouble."""

from __future__ import annotations

import contextlib
import select
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import money
from retrain.campaign.state import Curves, state_of_campaign
from retrain.cli import campaign_table, output, status_view
from retrain.cli.flags import parse
from retrain.cli.rollouts import finite_values
from retrain.cli.status_view import Style
from retrain.errors import ConfigError
from retrain.references import OUTPUTS, entries_under, find_either, is_campaign, is_either
from retrain.runs import RunState, state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.campaign.state import CampaignState

LISTED = 20  # runs, and campaigns, in a table without --all
WATCH_SECONDS = 2.0
HOME, CLEAR_LINE, CLEAR_BELOW, CLEAR = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J\x1b[H"


def main(arguments: Sequence[str]) -> int:
    """List the runs and campaigns under outputs/, or those given; of one that is named, say more.

    Raises:
        ConfigError: no such run or folder, or --json together with --watch.
    """
    flags, given = parse("status", arguments)
    if "--json" in flags and "--watch" in flags:
        raise ConfigError("--json is one document and --watch never ends; take one of them")
    found, _ = entries_of(given)
    if "--json" in flags:
        runs, campaigns = split(found)
        documents = {
            "campaigns": [campaign_document(state_of_campaign(one)) for one in campaigns],
            "runs": [document(state_of(run)) for run in runs],
        }
        output.document(documents)
        return 0
    everything = "--all" in flags
    if "--watch" not in flags:
        print(text(given, Style.of(sys.stdout), everything=everything))
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # how a watch ends
        watch(given, everything=everything)
    return 0


def entries_of(given: Sequence[str]) -> tuple[list[Path], bool]:
    """Return the runs and campaigns that are meant, newest first, and whether it is one that was named.

    Raises:
        ConfigError: a reference that means no run, or a folder without any.
    """
    if not given:
        return entries_under(OUTPUTS)[::-1], False
    if len(given) == 1 and (is_either(Path(given[0])) or not Path(given[0]).is_dir()):
        return [find_either(given[0])], True
    found: dict[Path, Path] = {}
    for reference in given:
        folder = Path(reference)
        listed = folder.is_dir() and not is_either(folder)
        below = entries_under(folder)[::-1] if listed else [find_either(reference)]
        if not below:
            raise ConfigError(f"there is no run in {folder}", "retrain status lists those under outputs/")
        found |= {one.resolve(): one for one in below}
    return list(found.values()), False


def split(found: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the runs, and the campaigns."""
    return [one for one in found if not is_campaign(one)], [one for one in found if is_campaign(one)]


def text(given: Sequence[str], style: Style, *, everything: bool, curves: Curves | None = None) -> str:
    """Return what is shown of the runs and campaigns that are meant, as of now."""
    found, named = entries_of(given)
    if not found:
        return f"no runs under {OUTPUTS}/ yet\n  retrain CONFIG.toml starts one; retrain init writes a CONFIG.toml"
    now = time.time()
    if named and is_campaign(found[0]):
        return campaign_table.detail(state_of_campaign(found[0], now), style, now, curves)
    if named:
        return status_view.detail(state_of(found[0], now), style, now)
    runs, campaigns = split(found)
    shown, older = [], 0
    if campaigns:
        kept = campaigns if everything else campaigns[:LISTED]
        shown.append(campaign_table.table([state_of_campaign(one, now) for one in kept], style))
        older += len(campaigns) - len(kept)
    if runs:
        kept = runs if everything else runs[:LISTED]
        shown.append(status_view.table([state_of(run, now) for run in kept], style, now))
        older += len(runs) - len(kept)
    both = "\n\n".join(shown)
    return both if older == 0 else f"{both}\n… {older} older: --all"


# --- for programs ---------------------------------------------------------------------------------------------------


def document(state: RunState) -> dict[str, Any]:
    """Return a run for a program. Its keys are a public contract, listed in the command's help."""
    values = asdict(state)
    del values["record"]
    values["directory"] = str(state.directory)
    values["money"] = money.spent([state.directory]) if state.record and state.record.currency else {}
    return finite_values(values) | {"commands": [command for command, _ in status_view.commands(state)]}


def campaign_document(state: CampaignState) -> dict[str, Any]:
    """Return a campaign for a program. Its keys are a public contract, listed in the command's help."""
    cells = [
        {
            "name": cell.name,
            "label": cell.label,
            "seed": cell.seed,
            "attempts": cell.attempts,
            "metric_value": cell.metric,
            **document(cell.run or RunState(directory=cell.directory, name=cell.name, state=cell.state)),
            "state": cell.state,
            "cause": cell.cause,
            "started": cell.started,
            "ended": cell.ended,
            "max_steps": cell.max_steps,
        }
        for cell in state.cells
    ]
    names = ("name", "kind", "state", "cause", "metric", "direction", "baseline", "max_workers", "unasked")
    times = ("eta_seconds", "started", "ended", "active_seconds")
    return {
        "directory": str(state.directory),
        **{name: getattr(state, name) for name in (*names, *times)},
        "conditions": state.labels,
        "seeds": state.seeds,
        "counts": dict(state.counts),
        "steps_done": state.steps_done,
        "max_steps": state.max_steps,
        "money": dict(state.money),
        "commands": [command for command, _ in campaign_table.commands(state)],
        "runs": cells,
    }


# --- again and again ------------------------------------------------------------------------------------------------


def watch(given: Sequence[str], *, everything: bool) -> None:
    """Show the runs until Ctrl-C: redrawn in place on a terminal, else a line for each run that has moved on.

    In a pipe also until nobody reads it any more.
    """
    if sys.stdout.isatty():
        print(CLEAR, end="")
        curves = Curves()
        while True:
            shown = text(given, Style.of(sys.stdout), everything=everything, curves=curves)
            print(frame(shown), end="", flush=True)
            time.sleep(WATCH_SECONDS)
    seen: dict[Path, tuple[Any, ...]] = {}
    while True:
        for line in news(given, seen):
            print(line, flush=True)
        if is_unread(WATCH_SECONDS):
            return


def is_unread(seconds: float) -> bool:
    """Wait; at once, when the reader of the pipe on stdout has gone, return True."""
    reader = select.poll()
    reader.register(sys.stdout, 0)  # that it is gone is told unasked
    return bool(reader.poll(1000 * seconds))


def frame(shown: str) -> str:
    """Return what redraws the screen in place, without more lines than it has."""
    room = max(1, shutil.get_terminal_size().lines - 3)
    lines = [*shown.splitlines()[:room], "", "Ctrl-C ends this view, not the runs"]
    return HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW


def news(given: Sequence[str], seen: dict[Path, tuple[Any, ...]]) -> list[str]:
    """Return a line for each run whose state, phase or step is not what was last `seen`; oldest first.

    A run of a campaign gets one only when its state changes: there are many of them.
    """
    now, lines = time.time(), []
    for entry in reversed(entries_of(given)[0]):
        if is_campaign(entry):
            lines += campaign_news(state_of_campaign(entry, now), seen, now)
            continue
        state = state_of(entry, now)
        moved = (state.state, state.phase, state.steps_done, state.cause if state.state != "stalled" else "")
        if seen.get(entry) != moved:
            seen[entry] = moved
            lines.append(status_view.line(state, now))
    return lines


def campaign_news(state: CampaignState, seen: dict[Path, tuple[Any, ...]], now: float) -> list[str]:
    """Return a line for the campaign and for each of its runs whose state is not what was last `seen`."""
    lines = []
    if seen.get(state.directory) != (moved := (state.state, state.counts)):
        seen[state.directory] = moved
        lines.append(campaign_table.news(state, now))
    for cell in state.cells:
        if seen.get(cell.directory, ("planned",)) != (cell.state,):
            seen[cell.directory] = (cell.state,)
            lines.append(campaign_table.line(state, cell, now))
    return lines
