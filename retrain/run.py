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
from typing import TYPE_CHECKING, Any, TypeVar

from retrain import checkpoint, preflight, registry, resuming, store, tracking
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
    from collections.abc import Callable

    from retrain.config.schema import RunConfig
    from retrain.data import LoadedData

T = TypeVar("T")
logger = logging.getLogger(__name__)

MEASURED_PROMPTS = 256  # the longest of the first so many stands for all


@dataclass(frozen=True, kw_only=True)
class Built:
    """A job, and what its run directory should say of it."""

    job: Job
    composed: Composed
    dataset: dict[str, Any]
    tracking_uri: str

    def close(self) -> None:
        """End the worker processes of rewards."""
        self.job.reward.close()
        if self.job.held_out is not None:
            self.job.held_out.reward.close()


# --- build ----------------------------------------------------------------------------------------------------------


def build(composed: Composed, emit: Emit = ignore) -> Built:
    """Turn a config into objects: plugins, data, tokenizer, reward, model.

    Raises:
        ConfigError: everything found wrong, in one list; the model itself is loaded only when nothing is.
    """
    config = composed.config
    require_extras(config)
    from retrain import data, evaluate, rewards
    from retrain.advantages import baselines, pipeline
    from retrain.model import load_tokenizer

    _quiet_transformers()
    emit(Phase(name="load", detail=config.data.source))
    attempt = _Attempts()
    adapter_path = attempt(lambda: preflight.check_adapter_path(config))
    attempt(
        lambda: preflight.check_place(store.planned_directory(config, composed.name, dt.datetime.now().astimezone()))
    )
    loaded = attempt(lambda: data.load(config, composed.places))
    tokenizer = attempt(lambda: load_tokenizer(config))
    transforms = attempt(lambda: pipeline.build(config, tokenizer, composed.places)) if tokenizer else None
    baseline = attempt(lambda: baselines.build(config.algorithm, composed.places))
    reward = attempt(lambda: rewards.build(config, loaded.reward if loaded else "match", composed.places))
    held_out = attempt(lambda: evaluate.prepare(config, loaded, reward, composed.places)) if loaded and reward else None
    tracking_uri = attempt(lambda: tracking.resolve_tracking_uri(config))
    if attempt.problems or not (loaded and tokenizer and transforms and baseline and reward and tracking_uri):
        if reward is not None:
            reward.close()
        raise ConfigError(attempt.problems)

    if adapter_path and adapter_path.is_dir() and any(adapter_path.iterdir()):
        emit(Warned(message=f"the adapter in {config.backend.adapter_path} will be replaced when this run is done"))
    for caution in cautions(config):
        emit(Warned(message=caution))
    emit(Phase(name="load", detail=config.model.model))
    backend_class = registry.resolve("backend", config.backend.backend, places=())
    training = config.training
    job = Job(
        config=config,
        data=loaded.tasks,
        tokenizer=tokenizer,
        reward=reward,
        baseline=baseline,
        pipeline=transforms,
        backend=backend_class.load(config, tokenizer),
        sampling=Sampling(
            max_tokens=training.max_tokens,
            temperature=training.temperature,
            top_p=training.top_p,
            stop=tuple(training.stop),
            seed=training.seed,
        ),
        emit=emit,
        held_out=held_out,
    )
    _check_lengths(job)
    if held_out is not None:
        evaluate.check_lengths(held_out, tokenizer, job.backend.max_positions)
    return Built(job=job, composed=composed, dataset=_described(config, loaded), tracking_uri=tracking_uri)


def _check_lengths(job: Job) -> None:
    """Refuse completions that would leave the positions that the model knows."""
    prompt = max(len(job.tokenizer.encode_prompt(task.prompt)) for task in job.data[:MEASURED_PROMPTS])
    if problem := too_long(prompt, job.sampling.max_tokens, job.backend.max_positions):
        raise ConfigError(problem)


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


def _quiet_transformers() -> None:
    """Let transformers log as other libraries do, and draw no bars of its own."""
    from transformers.utils import logging as noisy

    noisy.disable_default_handler()
    noisy.enable_propagation()
    noisy.disable_progress_bar()


class _Attempts:
    """Calls that may each find the user's input wrong: go on after the first, and keep all that was found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __call__(self, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ConfigError as error:
            self.problems += error.problems
            return None


def require_extras(config: RunConfig) -> None:
    """Refuse a config whose backend, engine or tracker is not installed here, importing none of it.

    Raises:
        ConfigError: with the command that installs what is missing.
    """
    problems, named = [], set[str]()
    for kind, name in (("backend", config.backend.backend), ("engine", config.inference.engine)):
        entry = registry.names(kind).get(name)
        can = entry.can if entry is not None else None
        if can is not None and (missing := [module for module in can.absent() if module not in named]):
            message = f'{kind} "{name}" needs {", ".join(missing)}, not installed here'
            problems.append(Problem(message=message, hint=f'pip install "retrain[{can.extra}]"'))
            named.update(missing)
    if problems:
        raise ConfigError(problems)
    if config.logging.wandb_project and (problem := tracking.check_wandb()):
        raise ConfigError(problem)


def _described(config: RunConfig, loaded: LoadedData) -> dict[str, Any]:
    name = "/".join(part for part in (config.data.source, config.data.name or config.data.path) if part)
    return {"name": name, "rows": len(loaded.tasks), "digest": loaded.digest}


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
                held = _open(directory, composed, record, lock)
                store.point_latest(directory)
                return _train(built.job, held, log, signals, resume_from=None, follow=follow)
        finally:
            built.close()


def resume(directory: Path, composed: Composed | None = None, *, emit: Emit = ignore, follow: bool = True) -> RunResult:
    """Go on with a run that stopped, in place: from its newest whole checkpoint, or from the start if it has none.

    composed: what to go on with; None: the run's own config. Only length, saving, logging and health may differ.
    follow:   as for `run`

    Raises:
        ConfigError: there is nothing to go on with: no run, one that is alive, finished, or of another config.
    """
    RunRecord.read(directory)  # or there is no run here
    signals = Signals()
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
                resuming.check_data(before, built.dataset)
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
                        replace(record, steps_done=step, best=before.best, active_seconds=before.active_seconds),
                        lock,
                    )
                    held.cut_back(step)
                    checkpoint.set_aside(directory / "checkpoints", after=step)
                    return _train(built.job, held, log, signals, resume_from=found, follow=follow)
            finally:
                built.close()
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
        dataset=built.dataset,
        num_trainable=built.job.backend.num_trainable,
    )


def _open(directory: Path, composed: Composed, record: RunRecord, lock: store.RunLock) -> RunStore:
    store.write_atomically(directory / "config.toml", composed.to_toml())
    return RunStore(directory, composed.config, record, lock)


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
