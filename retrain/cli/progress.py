"""Show a run while it goes: a bar on a terminal, plain lines in a pipe. On stderr, so that stdout stays data.

Everything here only watches: a terminal that goes away must not end a run, so a failed write silences the rest.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from retrain.cli import output
from retrain.events import CheckpointSaved, Diagnosed, Evaluated, Event, Phase, RunStarted, StepDone, Warned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from rich.console import Console, RenderableType
    from rich.progress import TaskID

WINDOW = 10  # steps that speed and time shares are measured over
QUIET_SECONDS = 2.0  # a pipe gets a line at most this often
PHASES = ("generate", "score", "train")


def duration(seconds: float) -> str:
    """Write a duration as a person would: ``0:42``, ``1:03:20``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """Speed and time shares over the last steps, and from them the time that is left."""

    def __init__(self) -> None:
        self.steps: deque[Mapping[str, float]] = deque(maxlen=WINDOW)

    def add(self, metrics: Mapping[str, float]) -> None:
        if "time/total" in metrics:  # a line of step 0 has a held-out score and no step
            self.steps.append(metrics)

    def total(self, key: str) -> float:
        return sum(step.get(key, 0.0) for step in self.steps)

    def remaining(self, steps: int) -> float:
        """Seconds that `steps` more steps would take."""
        return self.total("time/total") / len(self.steps) * steps if self.steps else 0.0

    def tokens_per_second(self) -> float:
        seconds = self.total("time/total")
        return self.total("tokens/generated") / seconds if seconds > 0 else 0.0

    def shares(self) -> dict[str, float]:
        """Share of the step's time that each phase took; what is in none of them is in no share."""
        seconds = self.total("time/total")
        return {phase: self.total(f"time/{phase}") / seconds for phase in PHASES} if seconds > 0 else {}


class Spent:
    """Where the time of a run went. Steps measure their own phases; any other lasts until the next one begins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.phase, self.since = "start", clock()

    def begin(self, phase: str) -> None:
        now = self.clock()
        if self.phase not in PHASES:
            self.seconds[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def add(self, metrics: Mapping[str, float]) -> None:
        for phase in PHASES:
            self.seconds[phase] += metrics.get(f"time/{phase}", 0.0)

    def __str__(self) -> str:
        """Say it, the longest phase first: ``train 12.3 s, generate 8.0 s, load 2.1 s``."""
        self.begin(self.phase)
        longest = sorted(self.seconds.items(), key=lambda entry: -entry[1])
        return ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in longest)


def facts(metrics: Mapping[str, float], pace: Pace) -> str:
    """Return what a step's line says after its number: reward, correct rate, speed, time shares."""
    found = []
    if "reward/mean" in metrics:
        found.append(f"reward {metrics['reward/mean']:.3f}")
    if "reward/correct_rate" in metrics:
        found.append(f"correct {metrics['reward/correct_rate']:.0%}")
    if speed := pace.tokens_per_second():
        found.append(f"{speed:,.0f} tokens/s")
    if shares := pace.shares():
        found.append(" ".join(f"{phase} {share:.0%}" for phase, share in shares.items()))
    return " · ".join(found)


def evaluated_line(event: Evaluated) -> str:
    """Return what a held-out score is shown as, with its standard error."""
    metrics, error = event.metrics, ""
    if "eval/score_se" in metrics:
        error = f" ± {metrics['eval/score_se']:.3f}"
    score = f"held-out {metrics['eval/score']:.3f}{error}" if "eval/score" in metrics else "nothing could be scored"
    return f"step {event.step}: {score}"


def problem_line(event: Diagnosed) -> str:
    """Return what a broken rule of health is shown as."""
    return f"problem at step {event.step}: {event.message}; {event.hint}"


class View(Protocol):
    """How events look."""

    def phase(self, event: Phase) -> None: ...

    def started(self, event: RunStarted) -> None: ...

    def step(self, event: StepDone, pace: Pace) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Plain lines: the first step, the last one, and one every few seconds between; or one for every step."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, every_step: bool = False
    ) -> None:
        self.stream, self.clock = stream, clock
        self.last, self.pause = -QUIET_SECONDS, 0.0 if every_step else QUIET_SECONDS

    def phase(self, event: Phase) -> None:
        if event.name == "load":
            self.say(f"loading {event.detail}".rstrip())

    def started(self, event: RunStarted) -> None:
        self.say(started_line(event))

    def step(self, event: StepDone, pace: Pace) -> None:
        now = self.clock()
        if event.step < event.max_steps and now - self.last < self.pause:
            return
        self.last = now
        left = event.max_steps - event.step
        eta = f" · {duration(pace.remaining(left))} left" if left else ""
        self.say(f"step {event.step}/{event.max_steps} · {facts(event.metrics, pace)}{eta}")

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        self.stream.flush()


class Bar:
    """A bar with what is being done now, and under it a line with the last step's facts."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self.task: TaskID | None = None
        self.facts = ""
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=4)
        self.live.start()

    def render(self) -> RenderableType:
        """Return what stands below the printed lines right now."""
        from rich.console import Group
        from rich.text import Text

        if self.task is None:
            return Text(self.facts, style="dim")
        return Group(self.progress, Text(f"  {self.facts}", style="dim", no_wrap=True, overflow="ellipsis"))

    def phase(self, event: Phase) -> None:
        if self.task is not None:
            self.progress.update(self.task, description=event.name)
        elif event.name == "load":
            self.facts = f"loading {event.detail}".rstrip()

    def started(self, event: RunStarted) -> None:
        self.say(started_line(event))
        self.facts = ""
        self.task = self.progress.add_task("starting", total=event.max_steps, completed=event.first_step, left="")

    def step(self, event: StepDone, pace: Pace) -> None:
        self.facts = facts(event.metrics, pace)
        if self.task is not None:
            left = event.max_steps - event.step
            eta = f"{duration(pace.remaining(left))} left" if left else "done"
            self.progress.update(self.task, completed=event.step, left=eta)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.live.stop()


def started_line(event: RunStarted) -> str:
    """Return the line that says where a run is, and where it goes on from."""
    steps = f"steps {event.first_step + 1} to {event.max_steps}" if event.first_step else f"{event.max_steps} steps"
    return f"run {shown(event.dir)}: {steps}"


def shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class Watch:
    """Turn a run's events into a view, and remember what the end of the command needs to know.

    with Watch() as watch:
        run(composed, emit=watch.emit)
    """

    def __init__(self, view: View | None = None) -> None:
        self.view: View | None = view or default_view()
        self.pace, self.spent = Pace(), Spent()
        self.dir: Path | None = None  # known once the run directory exists
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was; what is printed from here on comes after the last event."""
        self._show(lambda view: view.close())
        self.view = None

    def emit(self, event: Event) -> None:
        """Take one event; never raises because of a terminal."""
        match event:
            case Phase():
                self.spent.begin(event.name)
                self._show(lambda view: view.phase(event))
            case RunStarted():
                self.dir = event.dir
                self._show(lambda view: view.started(event))
            case StepDone():
                self.pace.add(event.metrics)
                self.spent.add(event.metrics)
                self._show(lambda view: view.step(event, self.pace))
            case Evaluated():
                self._show(lambda view: view.say(evaluated_line(event)))
            case Diagnosed():
                self._show(lambda view: view.say(problem_line(event)))
            case CheckpointSaved():  # seen in the run directory; a line for each would drown the steps
                if output.verbose():
                    self._show(lambda view: view.say(f"saved {shown(event.path)}"))
            case Warned():
                self.warnings.append(event.message)
                self._show(lambda view: view.say(f"warning: {event.message}"))

    def _show(self, act: Callable[[View], None]) -> None:
        if self.view is None:
            return
        try:
            act(self.view)
        except OSError:  # the reader of a pipe or the terminal itself is gone
            self.view = None


def default_view() -> View | None:
    """Return a bar for a terminal, plain lines for anything else and beside a log; None: nothing is to be seen."""
    if output.quiet():
        return None
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or output.verbose():
        return Lines(sys.stderr, every_step=output.verbose())
    from rich.console import Console

    return Bar(Console(stderr=True))
