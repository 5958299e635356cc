"""A run from its config: `build` turns names into objects, `run` trains, `resume` goes on. Read this second.

    composed config ──build──▶ Job ──open the run directory──▶ backend.train ──▶ RunResult

Everything that can be wrong with the user's input is found by `build`, before anything is on disk. Heavy libraries are
imported inside the functions, so that the command line may import this module for free.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import checkpoint, parts, preflight, registry, resuming, store, tracking
from retrain.config import Composed, compose
from retrain.config.cautions import cautions
from retrain.errors import ConfigError, Problem
from retrain.events import CheckpointSaved, Diagnosed, Emit, Event, Phase, RunStarted, StepDone, Warned, ignore
from retrain.logs import Log
from retrain.signals import Signals
from retrain.store import RunRecord, RunStore
from retrain.types import Job, RunResult, Sampling
from retrain.watchdog import Watchdog

if TYPE_CHECKING:
    from retrain.capabilities import Capabilities, Prices
    from retrain.config.schema import RunConfig
    from retrain.types import Backend

logger = logging.getLogger(__name__)

MEASURED_PROMPTS = 256  # the longest of the first so many stands for all


@dataclass(frozen=True, kw_only=True)
class Built:
    """A job, and what its run directory should say of it."""

    job: Job
    composed: Composed
    made: parts.Parts
    tracking_uri: str


# --- build ----------------------------------------------------------------------------------------------------------


def build(composed: Composed, emit: Emit = ignore) -> Built:
    """Turn a config into objects: plugins, data, tokenizer, reward, model.

    Raises:
        ConfigError: everything found wrong, in one list; the model itself is loaded only when nothing is.
    """
    config, name = composed.config, composed.config.backend.backend
    offered = require_packages(composed)
    if "data" in offered.parts:
        emit(Phase(name="load", detail=config.data.source))
    attempt = parts.Attempts()
    adapter_path = attempt(lambda: preflight.check_adapter_path(config))
    attempt(
        lambda: preflight.check_place(store.planned_directory(config, composed.name, dt.datetime.now().astimezone()))
    )
    made = parts.make(composed, offered.parts, attempt)
    tracking_uri = attempt(lambda: tracking.resolve_tracking_uri(config))
    problems = [*attempt.problems, *parts.wrong_options(config, offered)]
    if problems or tracking_uri is None:
        made.close()
        raise ConfigError(problems)

    if adapter_path and adapter_path.is_dir() and any(adapter_path.iterdir()):
        emit(Warned(message=f"the adapter in {config.backend.adapter_path} will be replaced when this run is done"))
    for caution in cautions(config):
        emit(Warned(message=caution))
    emit(Phase(name="load", detail=config.model.model))
    backend = registry.resolve("backend", name, places=composed.places).load(config, made.tokenizer)
    job = _job(config, made, backend, offered.price(config), emit)
    _check_lengths(job)
    return Built(job=job, composed=composed, made=made, tracking_uri=tracking_uri)


def _job(config: RunConfig, made: parts.Parts, backend: Backend, prices: Prices | None, emit: Emit) -> Job:
    training = config.training
    return Job(
        config=config,
        data=made.tasks,
        tokenizer=made.tokenizer,
        reward=made.reward,
        baseline=made.baseline,
        pipeline=made.pipeline,
        backend=backend,
        sampling=Sampling(
            max_tokens=training.max_tokens,
            temperature=training.temperature,
            top_p=training.top_p,
            stop=tuple(training.stop),
            seed=training.seed,
        ),
        emit=emit,
        prices=prices,
        held_out=made.held_out,
    )


def _check_lengths(job: Job) -> None:
    """Refuse completions that would leave the positions that the model knows."""
    limit = job.backend.max_positions
    if limit is None or not job.data:
        return
    prompt = max(len(job.tokenizer.encode_prompt(task.prompt)) for task in job.data[:MEASURED_PROMPTS])
    if problem := too_long(prompt, job.sampling.max_tokens, limit):
        raise ConfigError(problem)
    if job.held_out is not None:
        from retrain import evaluate

        evaluate.check_lengths(job.held_out, job.tokenizer, limit)


def too_long(prompt: int, longest: int, limit: int | None) -> Problem | None:
    """Say what is wrong with completions of `longest` tokens after a prompt of `prompt`; None: nothing.

    limit: positions that the model was made for; None: it has no such bound
    """
    if limit is None or prompt + longest <= limit:
        return None
    return Problem(
        message=f"training.max_tokens = {longest} after prompts of {prompt} tokens: "
        f"the model was made for {limit} in all",
        hint=f"--max-tokens {max(1, limit - prompt)}",
        key="training.max_tokens",
    )


def require_packages(composed: Composed) -> Capabilities:
    """Return what a config's backend says of itself, where all is installed that it, its engine and tracker need.

    Raises:
        ConfigError: with the command that installs what is missing; the backend cannot be imported, or is none.
    """
    config = composed.config
    offered = registry.capabilities(config.backend.backend, places=composed.places)
    if problems := parts.not_installed(config, offered):
        raise ConfigError(problems)
    if config.logging.wandb_project and (problem := tracking.check_wandb()):
        raise ConfigError(problem)
    return offered


# --- run ------------------------------------------------------------------------------------------------------------


def run(composed: Composed, *, emit: Emit = ignore, directory: Path | None = None, follow: bool = True) -> RunResult:
    """Train what a config says: in a run directory of its own, or in the one that `resume.path` names.

    directory: begin in exactly this directory instead, where no run has begun yet
    follow:    start the process that mirrors the run into its trackers; a campaign has one for all of its runs

    Raises:
        ConfigError: the input is wrong; nothing was written.
        RunError: the run failed; its directory says why.
        Interrupted: it was asked to stop; its last finished step is saved.
    """
    if directory is None and composed.config.resume.path and (found := resuming.wanted(composed, emit)) is not None:
        return resume(found, composed, emit=emit, follow=follow)
    signals = Signals()
    with Log(emit) as log, signals.listening():
        composed, started = with_seed(composed), time.time()
        with signals.allowed():
            built = build(composed, emit)
        try:
            directory, lock = _own_directory(composed, emit) if directory is None else _this_directory(directory)
            name = composed.config.logging.run_name or run_name(directory, composed.name)
            source = str(composed.path.resolve()) if composed.path else ""
            record = _record(built, name=name, started=started, source=source, tracking_uri=built.tracking_uri)
            with store.needed(directory):
                held = _open(directory, composed, record, lock, began=started)
                store.point_latest(directory)
                return _train(built.job, held, log, signals, resume_from=None, follow=follow)
        finally:
            built.made.close()


def resume(directory: Path, composed: Composed | None = None, *, emit: Emit = ignore, follow: bool = True) -> RunResult:
    """Go on with a run that stopped, in place: from its newest whole checkpoint, or from the start if it has none.

    composed: what to go on with; None: the run's own config. Only length, saving, logging and health may differ.
    follow:   as for `run`

    Raises:
        ConfigError: there is nothing to go on with: no run, one that is alive, finished, or of another config.
    """
    RunRecord.read(directory)  # or there is no run here
    signals, began = Signals(), time.time()
    lock = store.RunLock.take(directory)  # before anything is read that another process may be changing
    try:
        before = RunRecord.read(directory)
        before = replace(before, steps_done=max(before.steps_done, store.steps_done(directory)))
        with Log(emit) as log, signals.listening():
            old = compose(directory / "config.toml")
            composed = resuming.checked(directory, before, old, composed or old)
            found, complaints = checkpoint.newest_sound(directory / "checkpoints")
            for complaint in complaints:
                emit(Warned(message=complaint))
            step = checkpoint.step_of(found) if found else 0
            for warning in resuming.warnings(before, composed.config, step, lost_all=bool(complaints) and not found):
                emit(Warned(message=warning))
            with signals.allowed():
                built = build(composed, emit)
            try:
                resuming.check_data(before, built.made.dataset)
                record = _record(
                    built,
                    name=before.name,
                    started=before.started,
                    source=before.source,
                    tracking_uri=before.tracking_uri,
                )
                with store.needed(directory):
                    held = _open(
                        directory,
                        composed,
                        replace(
                            record,
                            steps_done=step,
                            best=before.best,
                            active_seconds=before.active_seconds,
                            money_redone=before.money_redone,
                        ),
                        lock,
                        began=began,
                    )
                    held.cut_back(step)
                    checkpoint.set_aside(directory / "checkpoints", after=step)
                    return _train(built.job, held, log, signals, resume_from=found, follow=follow)
            finally:
                built.made.close()
    finally:
        lock.release()


def _own_directory(composed: Composed, emit: Emit) -> tuple[Path, store.RunLock]:
    """Create the directory of a run that begins now, and take its lock."""
    wanted = store.planned_directory(composed.config, composed.name, dt.datetime.now().astimezone())
    directory = store.claim_directory(wanted)
    if directory != wanted:
        emit(Warned(message=f"{wanted} holds a run already; this one goes to {directory}"))
    return directory, store.RunLock.take(directory)


def _this_directory(directory: Path) -> tuple[Path, store.RunLock]:
    """Take the lock of a directory that was made for a run.

    Raises:
        ConfigError: a run has begun there.
    """
    lock = store.RunLock.take(directory)
    if (directory / "run.json").exists():
        lock.release()
        raise ConfigError(f"{directory} holds a run already", f"to go on with it: retrain resume {directory}")
    return directory, lock


def with_seed(composed: Composed) -> Composed:
    """Draw the seed where the config asks for one, so that the run directory names it."""
    if composed.config.training.seed != -1:
        return composed
    return composed.replace("training.seed", secrets.randbelow(2**31), "drawn")


def run_name(directory: Path, name: str) -> str:
    """The name of a run that was given none: its directory's, after the TOML's where that is only a time."""
    return f"{name} {directory.name}" if directory.parent.name == name else directory.name


def _record(built: Built, **known: Any) -> RunRecord:
    config = built.composed.config
    return RunRecord(
        **known,
        seed=config.training.seed,
        max_steps=config.training.max_steps,
        versions=store.installed_versions(),
        git=store.git_state(Path.cwd()),
        dataset=built.made.dataset,
        currency=built.job.prices.currency if built.job.prices else "",
        num_trainable=built.job.backend.num_trainable,
    )


def _open(directory: Path, composed: Composed, record: RunRecord, lock: store.RunLock, *, began: float) -> RunStore:
    store.write_atomically(directory / "config.toml", composed.to_toml())
    return RunStore(directory, composed.config, record, lock, began=began)


def _train(
    job: Job, held: RunStore, log: Log, signals: Signals, *, resume_from: Path | None, follow: bool
) -> RunResult:
    first = checkpoint.step_of(resume_from) if resume_from else 0
    log.write_to(held.dir / "log.txt")
    logger.info("%s: training from step %d to %d", held.record.name, first, job.config.training.max_steps)
    follower = tracking.Follower(held.dir) if follow else None
    try:
        with held.writing_outcome(), Watchdog(held.dir, job.config.health.stall_timeout, logger.warning) as watchdog:
            watched = _watched(job.emit, watchdog, follower, first)
            job = replace(job, emit=watched, signals=signals, beat=watchdog.beat)
            job.emit(RunStarted(dir=held.dir, first_step=first, max_steps=job.config.training.max_steps))
            result = job.backend.train(job, held, resume_from=resume_from)
            held.update(artifact=str(result.artifact))
    finally:
        if follower is not None:
            follower.start()  # a run that failed before its first step is tracked too
    logger.info("%s: done, %s", held.record.name, result.artifact)
    return result


def _watched(emit: Emit, watchdog: Watchdog, follower: tracking.Follower | None, first: int) -> Emit:
    """Pass events on; tell the watchdog of phases, keep the follower at work from the first finished step on."""
    steps_done = first

    def watch(event: Event) -> None:
        nonlocal steps_done
        if isinstance(event, StepDone):
            steps_done = event.step
        if isinstance(event, Phase):
            watchdog.phase(event.name, steps_done)
        emit(event)
        if isinstance(event, CheckpointSaved | Diagnosed):
            logger.info("%s", event)
        if isinstance(event, StepDone):
            watchdog.phase("step", steps_done)
            if follower is not None:
                follower.ensure()

    return watch
