"""`retrain status`: what has become of the runs here, and what to do about those in trouble."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from retrain.cli import status_view
from retrain.cli.flags import parse
from retrain.cli.rollouts import finite_values
from retrain.cli.status_view import Style
from retrain.errors import ConfigError
from retrain.references import OUTPUTS, find_run, is_run, runs_under
from retrain.runs import state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.runs import RunState

SWITCHES = ("--watch", "--json", "--all")
LISTED = 20  # runs in a table without --all
WATCH_SECONDS = 2.0
HOME, CLEAR_LINE, CLEAR_BELOW, CLEAR = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J\x1b[H"


def main(arguments: Sequence[str]) -> int:
    """List the runs under outputs/, or those given; of one run that is named, say more.

    Raises:
        ConfigError: no such run or folder, or --json together with --watch.
    """
    flags, given = parse("status", arguments, switches=SWITCHES)
    if "--json" in flags and "--watch" in flags:
        raise ConfigError("--json is one document and --watch never ends; take one of them")
    found, _ = runs_of(given)
    if "--json" in flags:
        print(json.dumps({"runs": [document(state_of(run)) for run in found]}, ensure_ascii=False, allow_nan=False))
        return 0
    everything = "--all" in flags
    if "--watch" not in flags:
        print(text(given, Style.of(sys.stdout), everything=everything))
        return 0
    try:
        watch(given, everything=everything)
    except KeyboardInterrupt:  # how a watch ends
        return 0


def runs_of(given: Sequence[str]) -> tuple[list[Path], bool]:
    """Return the runs that are meant, newest first, and whether it is one that was named.

    Raises:
        ConfigError: a reference that means no run, or a folder without any.
    """
    if not given:
        return runs_under(OUTPUTS)[::-1], False
    if len(given) == 1 and (is_run(Path(given[0])) or not Path(given[0]).is_dir()):
        return [find_run(given[0])], True
    found: dict[Path, Path] = {}
    for reference in given:
        folder = Path(reference)
        below = runs_under(folder)[::-1] if folder.is_dir() and not is_run(folder) else [find_run(reference)]
        if not below:
            raise ConfigError(f"there is no run in {folder}", "retrain status lists those under outputs/")
        found |= {run.resolve(): run for run in below}
    return list(found.values()), False


def text(given: Sequence[str], style: Style, *, everything: bool) -> str:
    """Return what is shown of the runs that are meant, as of now."""
    found, named = runs_of(given)
    if not found:
        return f"no runs under {OUTPUTS}/ yet\n  retrain CONFIG.toml starts one; retrain init writes a CONFIG.toml"
    now = time.time()
    if named:
        return status_view.detail(state_of(found[0], now), style, now)
    kept = found if everything else found[:LISTED]
    shown = status_view.table([state_of(run, now) for run in kept], style, now)
    older = len(found) - len(kept)
    return shown if older == 0 else f"{shown}\n… {older} older: --all"


# --- for programs ---------------------------------------------------------------------------------------------------


def document(state: RunState) -> dict[str, Any]:
    """Return a run for a program. Its keys are a public contract, listed in the command's help."""
    values = asdict(state)
    del values["record"]
    values["directory"] = str(state.directory)
    return finite_values(values) | {"commands": [command for command, _ in status_view.commands(state)]}


# --- again and again ------------------------------------------------------------------------------------------------


def watch(given: Sequence[str], *, everything: bool) -> NoReturn:
    """Show the runs until Ctrl-C: redrawn in place on a terminal, else a line for each run that has moved on."""
    if sys.stdout.isatty():
        print(CLEAR, end="")
        while True:
            print(frame(text(given, Style.of(sys.stdout), everything=everything)), end="", flush=True)
            time.sleep(WATCH_SECONDS)
    seen: dict[Path, tuple[Any, ...]] = {}
    while True:
        for line in news(given, seen):
            print(line, flush=True)
        time.sleep(WATCH_SECONDS)


def frame(shown: str) -> str:
    """Return what redraws the screen in place, without more lines than it has."""
    room = max(1, shutil.get_terminal_size().lines - 3)
    lines = [*shown.splitlines()[:room], "", "Ctrl-C ends this view, not the runs"]
    return HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW


def news(given: Sequence[str], seen: dict[Path, tuple[Any, ...]]) -> list[str]:
    """Return a line for each run whose state, phase or step is not what was last `seen`; oldest first."""
    now, lines = time.time(), []
    for run in reversed(runs_of(given)[0]):
        state = state_of(run, now)
        moved = (state.state, state.phase, state.steps_done, state.cause if state.state != "stalled" else "")
        if seen.get(run) != moved:
            seen[run] = moved
            lines.append(status_view.line(state, now))
    return lines
