"""Show a campaign while it goes, and sum it up at the end. On stderr, so that stdout stays data.

Everything here only watches: a terminal that goes away must not end a campaign, so a failed write silences the rest.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from retrain import money
from retrain.campaign.state import UNFINISHED, Curves, state_of_campaign
from retrain.cli import campaign_table, output
from retrain.cli.progress import duration, shown
from retrain.cli.status_view import Style, took, visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from rich.console import Console

    from retrain.campaign.manifest import Manifest
    from retrain.campaign.state import CampaignState, Cell

LOOK_SECONDS = 2.0  # between two looks at the runs while the manifest does not change
PARTS = 10  # of the whole; a pipe gets a line for each


class View(Protocol):
    """How a campaign looks while it goes."""

    def show(self, state: CampaignState) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Plain lines: one for each run that starts or ends, and one for each tenth of all steps."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.seen: dict[str, str] | None = None  # run → the state that was last said
        self.part = 0

    def show(self, state: CampaignState) -> None:
        if self.seen is None:
            self.seen = {cell.name: cell.state for cell in state.cells if cell.state != "running"}
            at_once = f", {state.max_workers} at once" if state.max_workers > 1 else ""
            missing = sum(cell.state in UNFINISHED for cell in state.cells) + state.unasked
            self._say(f"campaign {shown(state.directory)}: {missing} of {state.number} runs to do{at_once}")
            self.part = self._part(state)
        for cell in state.cells:
            if self.seen.setdefault(cell.name, "planned") != cell.state:
                self.seen[cell.name] = cell.state
                self._say(run_line(state, cell))
        part = self._part(state)
        if part > self.part:
            self.part = part
            left = f" · {duration(state.eta_seconds)} left" if state.eta_seconds is not None else ""
            self._say(f"{part * 100 // PARTS}% of all steps · {campaign_table.counted(state)}{left}")

    def _part(self, state: CampaignState) -> int:
        return PARTS * state.steps_done // state.max_steps if state.max_steps else 0

    def _say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


def run_line(state: CampaignState, cell: Cell) -> str:
    """Return what is said when a run starts or ends."""
    facts = [visible(cell.name), "started" if cell.state == "running" else cell.state]
    if cell.state == "running" and cell.steps_done:
        facts.append(f"from step {cell.steps_done}")
    elif cell.state != "running":
        facts += [f"step {cell.steps_done}/{cell.max_steps}"] if cell.run is not None else []
        facts += [f"{state.metric} {cell.metric:.3f}"] if cell.metric is not None else []
        if cell.started is not None and cell.ended is not None:
            facts.append(took(cell.started, cell.ended, cell.run.active_seconds if cell.run else None))
        facts += [visible(cell.cause)] if cell.cause else []
    return " · ".join(facts)


class Table:
    """The matrix of conditions and seeds, redrawn in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self.console, self.curves = console, Curves()
        self.live = Live(console=console, auto_refresh=False)
        self.live.start()

    def show(self, state: CampaignState) -> None:
        from rich.text import Text

        style = Style.of(sys.stderr)
        text = frame(state, style, self.curves, time.time(), shutil.get_terminal_size().lines)
        self.live.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def close(self) -> None:
        self.live.stop()


def frame(state: CampaignState, style: Style, curves: Curves, now: float, height: int) -> str:
    """Return what is redrawn: without the curves, then without the runs in trouble, where the screen is too low."""
    head = campaign_table.heading(state, style, now)
    trouble = campaign_table.troubles(state, style)
    bars, plain = (campaign_table.matrix(state, style, curves, bars=bars) for bars in (True, False))
    for lines in ([*head, "", *bars, *trouble], [*head, "", *plain, *trouble], [*head, "", *plain]):
        if len(lines) < height:
            return "\n".join(lines)
    return "\n".join([*head, "", *plain])


class CampaignWatch:
    """Show what becomes of a campaign.

    with CampaignWatch() as watch:
        conduct.start(plan, watch.changed)
    """

    def __init__(self, view: View | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.view: View | None = view or default_view()
        self.clock = clock
        self.shown: Manifest | None = None
        self.looked = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def changed(self, directory: Path, manifest: Manifest) -> None:
        """Show a campaign as of now; never raises because of a terminal. To be called often: it looks rarely."""
        now = self.clock()
        if self.view is None or (manifest is self.shown and now - self.looked < LOOK_SECONDS):
            return
        self.shown, self.looked = manifest, now
        state = state_of_campaign(directory, manifest=manifest)
        self._show(lambda view: view.show(state))

    def close(self) -> None:
        """Leave the terminal as it was; what is printed from here on comes below."""
        self._show(lambda view: view.close())
        self.view = None

    def _show(self, act: Callable[[View], None]) -> None:
        if self.view is None:
            return
        try:
            act(self.view)
        except OSError:  # the reader of a pipe or the terminal itself is gone
            self.view = None


def default_view() -> View | None:
    """Return a table for a terminal, plain lines for anything else and beside a log; None: nothing is to be seen."""
    if output.quiet():
        return None
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or output.verbose():
        return Lines(sys.stderr)
    from rich.console import Console

    return Table(Console(stderr=True, highlight=False))


# --- the end --------------------------------------------------------------------------------------------------------


def ending(directory: Path) -> str:
    """Return the last words on a campaign that has ended, however it did: what came of it, where, what to type."""
    from retrain import compare

    state = state_of_campaign(directory)
    paid = money.text(state.money) if state.money else ""
    told = ", ".join(filter(None, [campaign_table.counted(state), campaign_table.spent(state), paid]))
    lines = ["", f"{visible(state.name)}: {told}"]
    if state.counts.get("done"):
        lines.append(f"  {visible(compare.headline(directory))}")
    lines += campaign_table.troubles(state, Style.of(sys.stderr))
    named = {"campaign": directory, "report": directory / "report.html", "results": directory / "results.csv"}
    lines += ["", *(f"  {name:<12} {shown(path)}" for name, path in named.items() if path.exists())]
    found = campaign_table.commands(state)
    width = max(len(command) for command, _ in found)
    return "\n".join([*lines, "", "next:", *(f"  {command:<{width}}  {what}" for command, what in found), ""])
