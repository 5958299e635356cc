"""`retrain rollouts RUN`: see completions of a step, each token in the colour of its advantage."""

from __future__ import annotations

import json
import math
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.cli import output
from retrain.cli.flags import parse
from retrain.errors import ConfigError, Problem, nearest
from retrain.references import find_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from retrain.cli.rollouts_tokens import Decode, Scale, Shown

    Row = dict[str, Any]

ON_A_TERMINAL, ON_A_PAGE = 4, 64  # completions shown unless flags say how many; --json has all
LATER_COLUMNS = ("uncertainty", "planning")  # older runs lack them


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which completions of a step to show; None: not asked for."""

    best: int | None = None
    worst: int | None = None
    search: str = ""
    task: str | None = None
    limit: int | None = None

    def __str__(self) -> str:
        """Say it in words: what stands behind "4 of 32 completions"."""
        asked = [(name, k) for name, k in (("best", self.best), ("worst", self.worst)) if k is not None]
        ranks = [f"the {k} {name}" if k > 1 else f"the {name}" for name, k in asked]
        filters = [f"of task {self.task}"] if self.task is not None else []
        filters += [f'with "{self.search}"'] if self.search else []
        return ", ".join([" and ".join(ranks) or "best and worst of the groups whose rewards differ most", *filters])


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown, whatever it is drawn on."""

    run: Path
    step: int
    total: int  # completions of the step
    choice: Choice
    shown: Sequence[Shown]
    advantage: Scale
    uncertainty: Scale | None  # None: not on file
    planning: bool  # whether planning tokens are on file
    signal: bool  # coloured by uncertainty first
    note: str  # why tokens have no colour; "": they have

    @property
    def said(self) -> str:
        """How many are shown, and which."""
        many = f"{len(self.shown)} of {self.total} completions"
        return many if len(self.shown) == self.total else f"{many}: {self.choice}"

    @property
    def scale(self) -> Scale:
        return self.uncertainty if self.signal and self.uncertainty else self.advantage


def main(arguments: Sequence[str]) -> int:
    """Show completions of a run on the terminal, in an HTML file, or as JSON.

    Raises:
        ConfigError: no such run or step, no completions kept, a wrong number, or a column that the file lacks.
    """
    flags, positional = parse("rollouts", arguments)
    choice, step = wanted(flags, positional)
    run_dir = find_run(positional[0])
    if find_spec("pyarrow") is None:
        raise ConfigError(
            Problem(
                message="reading completions needs pyarrow, not installed here", hint='pip install "retrain[local]"'
            )
        )
    rows, step = read(run_dir, step)
    if "--json" in flags:
        picked = choose(rows, choice, None)
        completions = [finite_values(row) for row in picked]
        output.document({"run": str(run_dir), "step": step, "completions": completions}, indent=None)
        return 0
    page = flags.get("--html")
    picked = choose(rows, choice, ON_A_TERMINAL if page is None else ON_A_PAGE)
    if not picked:
        output.say(f'no completion of step {step} has "{choice.search}" in its prompt or its text')
        return 0
    view = look(run_dir, step, rows, picked, choice, signal="--signal" in flags)
    if page is None:
        from retrain.cli import rollouts_terminal

        rollouts_terminal.show(view)
    else:
        from retrain.cli import rollouts_html

        rollouts_html.write(view, Path(page))
        output.say(f"wrote {page}: {len(picked)} of {len(rows)} completions of step {step}")
    return 0


def wanted(flags: Mapping[str, str], positional: Sequence[str]) -> tuple[Choice, int | None]:
    """Read the flags.

    Raises:
        ConfigError: not one RUN, a number that is none, or two outputs at once.
    """
    if len(positional) != 1:
        given = f"got {len(positional)}: {' '.join(positional)}" if positional else "none was given"
        raise ConfigError(f"retrain rollouts takes one RUN, {given}", "retrain rollouts --help")
    if "--json" in flags and "--html" in flags:
        raise ConfigError("--json and --html are two outputs; take one at a time")
    if "--json" in flags and "--signal" in flags:
        raise ConfigError("--signal chooses a colour and --json has none; it holds advantages and uncertainty alike")
    numbers = {name: count(name, flags) for name in ("--step", "--best", "--worst", "--limit")}
    return Choice(
        best=numbers["--best"],
        worst=numbers["--worst"],
        limit=numbers["--limit"],
        search=flags.get("--search", ""),
        task=flags.get("--task"),
    ), numbers["--step"]


def count(name: str, flags: Mapping[str, str]) -> int | None:
    """Return a flag's whole number of at least 1; None where it is not given."""
    text = flags.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ConfigError(f'{name} takes a whole number from 1 on, got "{text}"')
    return int(text)


# --- the file -------------------------------------------------------------------------------------------------------


def read(run_dir: Path, step: int | None) -> tuple[list[Row], int]:
    """Return the completions of a step (default: the last one kept) with every column, in the order of the batch.

    Raises:
        ConfigError: that step is not on disk; the message says which are.
    """
    from retrain import rollouts

    steps = rollouts.steps(run_dir)
    if not steps:
        raise ConfigError(why_none(run_dir))
    if step is None:
        step = steps[-1]
    if step not in steps:
        raise ConfigError(f"{run_dir} has no completions of step {step}; it has those of steps {spans(steps)}")
    rows = rollouts.read(run_dir, step)
    for row in rows:
        for column in LATER_COLUMNS:
            row.setdefault(column, None)
        row["reward_parts"] = json.loads(row["reward_parts"] or "{}")
        if row["reward"] is not None and not math.isfinite(row["reward"]):
            row["reward"] = None
    return rows, step


def why_none(run_dir: Path) -> Problem:
    """Describe a run without any completions."""
    try:
        config = tomllib.loads((run_dir / "config.toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        config = {}
    if config.get("logging", {}).get("keep_rollouts") == "none":
        return Problem(
            message=f'{run_dir} kept no completions: its config says logging.keep_rollouts = "none"',
            hint="a run with --keep-rollouts all, or every n-th step, keeps them",
        )
    return Problem(
        message=f"{run_dir} has no completions yet",
        hint="they are written as steps are done; retrain --help says how to train",
    )


def spans(steps: Sequence[int]) -> str:
    """Write sorted numbers shortly: ``1-6, 10, 20``."""
    found: list[list[int]] = []
    for step in steps:
        if found and step == found[-1][1] + 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def finite_values(value: Any) -> Any:
    """Return a row for JSON, which knows no NaN and no infinity: they become null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [finite_values(item) for item in value]
        case dict():
            return {key: finite_values(item) for key, item in value.items()}
    return value


# --- the choice -----------------------------------------------------------------------------------------------------


def choose(rows: Sequence[Row], choice: Choice, limit: int | None) -> list[Row]:
    """Return the rows to show; `limit` holds where the choice names no number itself. None: all, as in the batch.

    Filters come first. --best and --worst rank by reward over the step and leave the unscorable out; otherwise rows
    come from every group in turn, see `mixed`.

    Raises:
        ConfigError: the step has no such task.
    """
    kept = [row for row in rows if matches(row, choice)]
    if choice.task is not None and not any(row["task_id"] == choice.task for row in rows):
        names = list(dict.fromkeys(row["task_id"] for row in rows))
        near = nearest(choice.task, names)
        question = f'; did you mean "{near}"?' if near else ""
        more = f", … {len(names) - 8} more" if len(names) > 8 else ""
        raise ConfigError(f"no task {choice.task} in this step{question}", f"tasks: {', '.join(names[:8])}{more}")
    if choice.best is None and choice.worst is None:
        limit = choice.limit or limit
        return kept if limit is None else mixed(kept, limit)
    ranked = sorted((row for row in kept if row["reward"] is not None), key=lambda row: -row["reward"])
    best = ranked[: choice.best or 0]
    worst = ranked[len(best) :][::-1][: choice.worst or 0]
    return [*best, *worst][: choice.limit]


def matches(row: Row, choice: Choice) -> bool:
    """Tell whether a row passes the filters; --search ignores case."""
    sought = choice.search.casefold()
    found = any(sought in (row[column] or "").casefold() for column in ("prompt", "completion"))
    return found and (choice.task is None or row["task_id"] == choice.task)


def mixed(rows: Iterable[Row], limit: int) -> list[Row]:
    """Return at most `limit` rows that show what there was to learn, neighbours within a group.

    Rounds over the groups, those whose rewards differ most first: the best and the worst of each, then the second best
    and the second worst, and so on. A group of equal rewards gives one a round; the unscorable come last.
    """
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    order = sorted(groups, key=lambda number: (-spread(groups[number]), number))
    rounds = zip_longest(*(turns(groups[number]) for number in order), fillvalue=())
    picked = [row for turn in rounds for pair in turn for row in pair][:limit]
    rank = {number: place for place, number in enumerate(order)}
    return sorted(picked, key=lambda row: (rank[row["group"]], row["reward"] is None, -(row["reward"] or 0.0)))


def spread(group: Sequence[Row]) -> float:
    """How far the rewards of a group lie apart; 0 where nothing could be scored."""
    rewards = [row["reward"] for row in group if row["reward"] is not None]
    return max(rewards) - min(rewards) if rewards else 0.0


def turns(group: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield what a group gives in each round of `mixed`."""
    scored = sorted((row for row in group if row["reward"] is not None), key=lambda row: -row["reward"])
    while scored and spread(group) > 0:
        yield [scored.pop(0), *([scored.pop()] if scored else [])]
    yield from ([row] for row in scored)
    yield from ([row] for row in group if row["reward"] is None)


# --- what is seen ---------------------------------------------------------------------------------------------------


def look(run_dir: Path, step: int, rows: Sequence[Row], picked: Sequence[Row], choice: Choice, *, signal: bool) -> View:
    """Cut the picked rows into tokens, and measure the colours on all rows of the step.

    Raises:
        ConfigError: the signal is asked for and not on file.
    """
    from retrain.cli.rollouts_tokens import Shown, advantage_scale, load_decode, split, uncertainty_scale

    uncertainty = uncertainty_scale(rows)
    if signal and uncertainty is None:
        raise ConfigError(
            f'{run_dir}/rollouts/step-{step}.parquet has no column "uncertainty": an older retrain wrote it',
            "without --signal, tokens are coloured by advantage; the column entropies is in --json",
        )
    decode, note = load_decode(run_dir)

    def cut(row: Row, decode: Decode | None) -> Shown:
        return Shown(row=row, pieces=None if decode is None else split(decode, row["token_ids"]))

    return View(
        run=run_dir,
        step=step,
        total=len(rows),
        choice=choice,
        shown=[cut(row, decode) for row in picked],
        advantage=advantage_scale(rows),
        uncertainty=uncertainty,
        planning=any(row["planning"] is not None for row in rows),
        signal=signal,
        note=note,
    )
