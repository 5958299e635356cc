"""Conduct a campaign: start what is missing, keep the manifest, stop when asked or when a budget is spent.

    plan ──▶ manifest.json, runs/*/config.toml ──orders──▶ launcher ──▶ supervisors ──▶ runs
                   ▲                                                        │
                   └──────────────── what became of each ◀──────────────────┘

Every run is a process of its own with a supervisor. What is here runs in the process that the user started.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import report, store, tracking
from retrain.campaign import searching
from retrain.campaign.budget import Budget
from retrain.campaign.launchers import check_launcher
from retrain.campaign.launching import Changes, Planned, Rolling, orders_of
from retrain.campaign.manifest import Manifest, RunEntry
from retrain.campaign.plan import Plan, keys_as_dict
from retrain.campaign.supervisor import Exit
from retrain.config import compose
from retrain.config import toml as toml_files
from retrain.errors import ConfigError, Incomplete, Interrupted, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOK_SECONDS = 0.5  # between two looks at signals and at what is shown, while nothing changes


def start(plan: Plan, show: Callable[[Path, Manifest], None]) -> Path:
    """Run a campaign in a directory of its own and return that.

    show: called with (directory, manifest) whenever something may have changed, at least twice a second

    Raises:
        ConfigError: the launcher cannot be used, or the directory cannot be written; nothing was started.
        Incomplete: some runs are not done; the manifest says which and why.
        Interrupted: it was asked to stop.
    """
    _check(plan)
    root = store.claim_directory(plan.root)
    lock = store.RunLock.take(root)
    plan = plan.placed(root)
    manifest = Manifest(
        name=plan.name,
        source=str(plan.source or ""),
        kind=plan.kind,
        campaign=keys_as_dict(plan.campaign),
        conditions=[{"label": c.label, "overrides": c.overrides} for c in plan.conditions],
        runs=[_entry(cell) for cell in plan.cells],
        tracking_uri=tracking.resolve_tracking_uri(plan.composed.config),
        experiment=plan.composed.config.logging.experiment,
        places=[str(place.resolve()) for place in plan.composed.places],
        cwd=str(Path.cwd()),
    )
    try:
        with store.needed(root):
            if plan.search is not None:
                searching.write_base(root, plan)
            else:
                (root / "campaign.toml").write_text(as_toml(plan), encoding="utf-8")
                _write_configs(plan)
            manifest.write(root)
            store.point_latest(root)
        return _conduct(root, manifest, show)
    finally:
        lock.release()


def go_on(
    root: Path,
    show: Callable[[Path, Manifest], None],
    *,
    plan: Plan | None = None,
    retry_failed: bool = False,
    leave_failed: bool = False,
) -> Path:
    """Do what is missing of a campaign: half-done runs from their checkpoints, what is done not at all.

    plan:         also its runs that are new; those that are there may not differ in what a step depends on
    retry_failed: failed runs begin anew instead of going on from their last checkpoint
    leave_failed: failed runs stay as they are; those of a search do so anyway, unless they begin anew

    Raises:
        ConfigError: nothing is missing, it is being conducted, or the plan changes a run that is there.
        Incomplete, Interrupted: as for `start`.
    """
    lock = store.RunLock.take(root)
    try:
        manifest = Manifest.read(root)
        if plan is not None and (manifest.is_search or plan.search is not None):
            manifest = searching.extended(root, manifest, plan)
        elif plan is not None:
            manifest = _extended(root, manifest, plan.placed(root))
        manifest = _as_found(root, manifest)
        is_answered = manifest.is_search and not retry_failed  # a failed run is what its trial came to
        left = ("done", "failed") if leave_failed or is_answered else ("done",)
        todo = [run for run in manifest.runs if run.state not in left and run.key]
        if not todo and not manifest.unasked:
            raise ConfigError(_nothing_to_do(root, manifest))
        for run in todo:
            if retry_failed and run.state == "failed":
                _begin_anew(root / run.directory)
            manifest = manifest.with_run(run.name, state="planned", exit_reason="")
        return _conduct(root, manifest.taken_over(), show)
    finally:
        lock.release()


def _nothing_to_do(root: Path, manifest: Manifest) -> Problem:
    failed, number = [run for run in manifest.runs if run.state == "failed"], len(manifest.runs)
    if any(run.key for run in failed):
        message = f"nothing is new or was interrupted in {root}, and {len(failed)} of its {number} runs failed"
        return Problem(message=message, hint="--retry-failed lets failed runs begin anew")
    hint = f"to add seeds or conditions: retrain {manifest.source or 'CONFIG.toml'} --extend {root}"
    if manifest.is_search:
        more = 2 * manifest.campaign["sweeper_options"]["n_trials"]
        hint = f"to add trials: as before, with hydra.sweeper.n_trials={more} --extend {root}"
    others = f", but for {len(failed)} whose keys do not go together" if failed else ""
    return Problem(message=f"{root} is finished: all of its {number} runs are done{others}", hint=hint)


def _check(plan: Plan) -> None:
    problem = check_launcher(plan.campaign.launcher, plan.campaign.launcher_options)
    if problem is not None:
        raise ConfigError(replace(problem, key="campaign.launcher"))
    if plan.search is not None and plan.search.storage:
        searching.check_storage(plan.root, plan.search)


def _entry(cell: Any) -> RunEntry:
    return RunEntry(
        name=cell.name,
        label=cell.label,
        seed=cell.seed,
        overrides=cell.overrides,
        directory=f"runs/{cell.name}",
        key=cell.key,
    )


def as_toml(plan: Plan) -> str:
    """Return the campaign as one TOML: what all runs have in common, and `[campaign]`."""
    conditions = [{"name": c.label, "overrides": c.overrides} for c in plan.conditions]
    table = {**keys_as_dict(plan.campaign), "conditions": conditions}
    return f"{plan.composed.to_toml()}\n{toml_files.write({'campaign': table})}"


def _write_configs(plan: Plan, names: Sequence[str] | None = None) -> None:
    for cell in plan.cells:
        if names is None or cell.name in names:
            cell.directory.mkdir(parents=True, exist_ok=True)
            store.write_atomically(cell.directory / "config.toml", cell.composed.to_toml())


# --- what is there --------------------------------------------------------------------------------------------------


def _extended(root: Path, manifest: Manifest, plan: Plan) -> Manifest:
    """Add the runs of a plan that are not there yet.

    Raises:
        ConfigError: a run that is there would be another one; the keys are named.
    """
    if declared := list(_declared_otherwise(root, manifest, plan)):
        raise ConfigError(declared)
    there = {run.name: run for run in manifest.runs}
    problems = [
        _difference(root, cell) for cell in plan.cells if cell.name in there and there[cell.name].key != cell.key
    ]
    if problems:
        raise ConfigError(problems)
    new = [cell for cell in plan.cells if cell.name not in there]
    with store.needed(root):
        _write_configs(plan, [cell.name for cell in new])
    done = sum(run.state == "done" for run in manifest.runs)
    look = {"time": round(time.time(), 3), "done": done, "planned": len(manifest.runs)}
    judged = new and manifest.state in ("done", "failed")  # its report gave a verdict: an end that was none
    known = {condition["label"] for condition in manifest.conditions}
    added = [{"label": c.label, "overrides": c.overrides} for c in plan.conditions if c.label not in known]
    return replace(
        manifest,
        campaign={**keys_as_dict(plan.campaign), "seeds": sorted({*manifest.campaign["seeds"], *plan.campaign.seeds})},
        conditions=[*manifest.conditions, *added],
        runs=[*manifest.runs, *map(_entry, new)],
        looks=[*manifest.looks, look] if judged else manifest.looks,
    )


DECLARED = ("baseline", "metric", "min_effect")
"""What a campaign says before it runs; said afterwards, it would find whatever one looks for."""


def _declared_otherwise(root: Path, manifest: Manifest, plan: Plan) -> Iterator[Problem]:
    """Yield what an extension may not change."""
    source = str(plan.source or "")
    if manifest.source and source != manifest.source:
        yield Problem(
            message=f"{root} is a campaign of {manifest.source}, not of {source}",
            hint="a campaign is extended by its own TOML; another one is a campaign of its own",
        )
    for name in DECLARED:
        before, now = manifest.campaign[name], getattr(plan.campaign, name)
        if before != now:
            yield Problem(
                message=f"campaign.{name} was {before!r} and is {now!r}: it was declared before the campaign ran",
                hint=f"leave it as it was; to look by another one: retrain compare {root} --metric M",
                key=f"campaign.{name}",
            )


def _difference(root: Path, cell: Any) -> Problem:
    """Name the keys in which a planned run differs from the one of its name that is there."""
    from retrain.resuming import differences

    old = compose(root / "runs" / cell.name / "config.toml")
    keys = [problem.key for problem in differences(old, cell.composed)] or ["training.max_steps"]
    return Problem(
        message=f"{cell.name} is there already, with another {', '.join(keys)}",
        hint="give the changed condition another name, or start a new campaign",
        key=keys[0],
    )


def _as_found(root: Path, manifest: Manifest) -> Manifest:
    """Return the manifest with what the runs and their supervisors say: who wrote it may have been killed."""
    for run in manifest.runs:
        state, reason = _how_it_ended(root / run.directory, run)
        manifest = manifest.with_run(run.name, state=state, exit_reason=reason)
    return manifest


def _how_it_ended(directory: Path, run: RunEntry) -> tuple[str, str]:
    """Return a run's state and the reason of its end. A supervisor has seen more than a run that was killed."""
    record, found = None, Exit.read(directory)
    with contextlib.suppress(ConfigError):
        record = store.RunRecord.read(directory)
    if record is not None and record.state == "done":
        return "done", ""
    if found is not None and found.state != "done":  # one that was done and is now longer is told by its record
        return found.state, found.exit_reason
    if record is None:
        return ("interrupted" if run.state == "running" else run.state), run.exit_reason
    return ("interrupted" if record.state == "running" else record.state), record.exit_reason


def _begin_anew(directory: Path) -> None:
    """Move a run aside, to `NAME.failed-1`, and leave its config in its place."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.failed-{number}")).exists():
        number += 1
    directory.rename(aside)
    directory.mkdir()
    shutil.copy2(aside / "config.toml", directory / "config.toml")


# --- while it runs --------------------------------------------------------------------------------------------------


def _conduct(root: Path, manifest: Manifest, show: Callable[[Path, Manifest], None]) -> Path:
    stop, follower = threading.Event(), tracking.Follower(root)
    search = searching.Searching(root, manifest) if manifest.is_search else None
    if search is not None:
        manifest = search.taken_up(manifest)
    manifest.write(root)
    show(root, manifest)  # as it is now: what ends from here on is news
    follower.start()
    launcher = (Rolling if search else Planned)(root, manifest, stop)
    budget = Budget(root, manifest)
    with _stopping(stop) as asked, _stopped_by_an_error(stop):
        launcher.start(orders_of(root, manifest, manifest.runs))
        while True:
            manifest = _taken(root, manifest, launcher.changes)
            if search is not None and isinstance(launcher, Rolling):
                manifest = search.advance(manifest, launcher, stop)
            show(root, manifest)
            follower.ensure()
            if not stop.is_set() and (spent := budget.spent(manifest)):
                asked.append(spent)
                stop.set()
            if not launcher.is_alive() and launcher.changes.empty():
                break
            launcher.wait(LOOK_SECONDS)
    if launcher.defect is not None:
        raise launcher.defect
    return _ended(root, manifest, asked, show, follower)


@contextlib.contextmanager
def _stopped_by_an_error(stop: threading.Event) -> Iterator[None]:
    """Let no run go on when this process cannot look after it any more."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def _taken(root: Path, manifest: Manifest, changes: Changes) -> Manifest:
    """Write down what has happened to the runs, and the report when one has ended."""
    ended = False
    before = manifest
    while not changes.empty():
        name, found = changes.get()
        if found is None:
            manifest = manifest.with_run(name, state="running", started=time.time(), ended=None)
        else:
            ended = True
            manifest = manifest.with_run(
                name,
                state=found.state,
                exit_reason=found.exit_reason,
                started=found.started,
                ended=found.ended,
                attempts=found.attempts,
            )
    if manifest is not before:
        manifest.write(root)
    if ended:
        report.write(root)
    return manifest


def _ended(
    root: Path,
    manifest: Manifest,
    asked: Sequence[str],
    show: Callable[[Path, Manifest], None],
    follower: tracking.Follower,
) -> Path:
    manifest = _as_found(root, manifest)  # whose turn never came is as it was before
    failed = [run for run in manifest.runs if run.state == "failed"]
    missing, unasked = [run for run in manifest.runs if run.state != "done"], manifest.unasked
    is_whole = not missing and not unasked
    state = "done" if is_whole else "interrupted" if asked else "failed"
    manifest = replace(manifest, state=state, exit_reason=asked[0] if asked else "", ended=time.time())
    manifest.write(root)
    report.write(root)  # once more: now the campaign is over
    show(root, manifest)
    follower.start()
    more = f", {unasked} trials have not begun" if unasked else ""
    if asked and asked[0].startswith("stopped by"):
        raise Interrupted(f"{asked[0]}; {len(missing)} runs are missing{more}: retrain resume {root}")
    if not is_whole:
        reasons = [f"{run.name}: {run.exit_reason or run.state}" for run in failed or missing]
        why = f"{asked[0]}; " if asked else ""
        is_answered = manifest.is_search and not unasked and len(failed) == len(missing)
        further = [f"retrain resume {root}{' --retry-failed' if is_answered else ''}"]
        raise Incomplete(
            f"{why}{len(missing)} of {len(manifest.runs)} runs are not done{more}",
            "\n".join([*reasons[:8], *(further if any(run.key for run in missing) or unasked else [])]),
        )
    return root


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[list[str]]:
    """Let SIGTERM and Ctrl-C stop the campaign cleanly; yield the list that says why it stopped, if it did.

    A second Ctrl-C is Python's own: the runs die with this process.
    """
    asked: list[str] = []

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(f"stopped by {signal.Signals(number).name}")
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
