"""A run from its config: `build` turns names into objects, `run` trains, `resume` goes on. Read this second.

    composed config ──build──▶ Job ──open the run directory──▶ backend.train ──▶ RunResult

Everything that can be wrong with the user's input is found by `build`, before anything is on disk. Heavy libraries are
imported inside the functions, so that the command line may import this module for free.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import logging
import logging.handlers
import secrets
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from retrain import checkpoint, preflight, registry, store, tracking
from retrain.config import Composed, compose
from retrain.config.cautions import cautions
from retrain.errors import ConfigError, Interrupted, Problem
from retrain.events import Emit, Event, Phase, RunStarted, StepDone, Warned, ignore
from retrain.store import RunRecord, RunStore
from retrain.types import Job, RunResult, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain.config.schema import RunConfig
    from retrain.data import LoadedData

T = TypeVar("T")
logger = logging.getLogger(__name__)

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pyarrow")
MEASURED_PROMPTS = 256  # the longest of the first so many stands for all


@dataclass(frozen=True, kw_only=True)
class Built:
    """A job, and what its run directory should say of it."""

    job: Job
    composed: Composed
    dataset: dict[str, Any]
    tracking_uri: str


# --- build ----------------------------------------------------------------------------------------------------------


def build(composed: Composed, emit: Emit = ignore) -> Built:
    """Turn a config into objects: plugins, data, tokenizer, reward, model.

    Raises:
        ConfigError: everything found wrong, in one list; the model itself is loaded only when nothing is.
    """
    config = composed.config
    _require_extras(config)
    from retrain import data, rewards
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
    )
    _check_lengths(job)
    return Built(job=job, composed=composed, dataset=_described(config, loaded), tracking_uri=tracking_uri)


def _check_lengths(job: Job) -> None:
    """Refuse completions that would leave the positions that the model knows."""
    limit, longest = job.backend.max_positions, job.sampling.max_tokens
    prompt = max(len(job.tokenizer.encode_prompt(task.prompt)) for task in job.data[:MEASURED_PROMPTS])
    if limit is not None and prompt + longest > limit:
        raise ConfigError(
            Problem(
                message=f"training.max_tokens = {longest} after prompts of {prompt} tokens: "
                f"the model was made for {limit} in all",
                hint=f"--max-tokens {max(1, limit - prompt)}",
                key="training.max_tokens",
            )
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


def _require_extras(config: RunConfig) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'backend "{config.backend.backend}" needs {", ".join(missing)}, not installed here',
            hint='pip install "retrain[local]"',
        )
    if config.logging.wandb_project and (problem := tracking.check_wandb()):
        raise ConfigError(problem)


def _described(config: RunConfig, loaded: LoadedData) -> dict[str, Any]:
    name = "/".join(part for part in (config.data.source, config.data.name or config.data.path) if part)
    return {"name": name, "rows": len(loaded.tasks), "digest": loaded.digest}


# --- run ------------------------------------------------------------------------------------------------------------


def run(composed: Composed, *, emit: Emit = ignore) -> RunResult:
    """Train what a config says, in a run directory of its own.

    Raises:
        ConfigError: the input is wrong; nothing was written.
        RunError: the run failed; its directory says why.
    """
    with _Log(emit) as log:
        return _run(with_seed(composed), emit, log)


def _run(composed: Composed, emit: Emit, log: _Log) -> RunResult:
    config, started = composed.config, time.time()
    built = build(composed, emit)
    try:
        wanted = store.planned_directory(config, composed.name, dt.datetime.now().astimezone())
        directory = store.claim_directory(wanted)
        if directory != wanted:
            emit(Warned(message=f"{wanted} holds a run already; this one goes to {directory}"))
        (directory / "config.toml").write_text(composed.to_toml(), encoding="utf-8")
        record = RunRecord(
            name=config.logging.run_name or run_name(directory, composed.name),
            seed=config.training.seed,
            max_steps=config.training.max_steps,
            started=started,
            source=str(composed.path.resolve()) if composed.path else "",
            versions=store.installed_versions(),
            git=store.git_state(Path.cwd()),
            dataset=built.dataset,
            tracking_uri=built.tracking_uri,
            num_trainable=built.job.backend.num_trainable,
        )
        held = RunStore.open(directory, config, record)
        store.point_latest(directory)
        return _train(built.job, held, log, resume_from=None)
    finally:
        built.job.reward.close()


def resume(directory: Path, *, emit: Emit = ignore) -> RunResult:
    """Go on with a run that stopped, in place: from its newest whole checkpoint, or from the start if it has none.

    Raises:
        ConfigError: there is nothing to go on with: no run, one that is alive, or one that is finished.
    """
    with _Log(emit) as log:
        return _resume(directory, emit, log)


def _resume(directory: Path, emit: Emit, log: _Log) -> RunResult:
    before = RunRecord.read(directory)
    if before.state == "done":
        raise ConfigError(
            f"{directory} is finished: {before.steps_done} of {before.max_steps} steps",
            hint=f"to train again: retrain {directory / 'config.toml'}",
        )
    if before.state == "running" and before.is_alive():
        raise ConfigError(f"{directory} is being trained by process {before.pid}", hint="wait for it, or stop it")
    composed = compose(directory / "config.toml")
    found, complaints = checkpoint.newest_sound(directory / "checkpoints")
    for complaint in complaints:
        emit(Warned(message=complaint))
    built = build(composed, emit)
    try:
        step = checkpoint.step_of(found) if found else 0
        record = RunRecord(
            name=before.name,
            seed=before.seed,
            steps_done=step,
            max_steps=composed.config.training.max_steps,
            started=before.started,
            source=before.source,
            versions=store.installed_versions(),
            git=store.git_state(Path.cwd()),
            dataset=built.dataset,
            tracking_uri=before.tracking_uri,
            num_trainable=built.job.backend.num_trainable,
        )
        held = RunStore.open(directory, composed.config, record)
        held.cut_back(step)
        return _train(built.job, held, log, resume_from=found)
    finally:
        built.job.reward.close()


def with_seed(composed: Composed) -> Composed:
    """Draw the seed where the config asks for one, so that the run directory names it."""
    if composed.config.training.seed != -1:
        return composed
    return composed.replace("training.seed", secrets.randbelow(2**31), "drawn")


def run_name(directory: Path, name: str) -> str:
    """The name of a run that was given none: its directory's, after the TOML's where that is only a time."""
    return f"{name} {directory.name}" if directory.parent.name == name else directory.name


def _train(job: Job, held: RunStore, log: _Log, *, resume_from: Path | None) -> RunResult:
    first = checkpoint.step_of(resume_from) if resume_from else 0
    log.write_to(held.dir / "log.txt")
    logger.info("%s: training from step %d to %d", held.record.name, first, job.config.training.max_steps)
    follower = _Follower(held.dir)
    job = replace(job, emit=follower.watching(job.emit))
    try:
        with _terminable(), held.writing_outcome():
            job.emit(RunStarted(dir=held.dir, first_step=first, max_steps=job.config.training.max_steps))
            result = job.backend.train(job, held, resume_from=resume_from)
            held.update(artifact=str(result.artifact))
    finally:
        follower.start()  # a run that failed before its first step is tracked too
    logger.info("%s: done, %s", held.record.name, result.artifact)
    return result


class _Follower:
    """Starts the process that mirrors the run, once: after the first step, so that it does not slow loading down."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.process = directory, None

    def start(self) -> None:
        if self.process is None:
            self.process = tracking.start_follower(self.directory)

    def watching(self, emit: Emit) -> Emit:
        """Pass events on, and start at the first finished step."""

        def watch(event: Event) -> None:
            emit(event)
            if isinstance(event, StepDone):
                self.start()

        return watch


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: recorded as interrupted."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the writing of how it ended
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Teller(logging.Handler):
    """Passes our own warnings on to whoever watches the run."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(logging.WARNING)
        self.emit_event = emit

    def emit(self, record: logging.LogRecord) -> None:
        self.emit_event(Warned(message=record.getMessage()))


class _Log:
    """What this process and its libraries log: kept until there is a run directory, then in its log.txt.

    Our own warnings also reach whoever watches the run.
    """

    def __init__(self, emit: Emit) -> None:
        self._early = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._teller = _Teller(emit)
        self._file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Send everything so far, and everything from here on, to a file."""
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._early.setTarget(self._file)
        self._early.flush()
        logging.getLogger().removeHandler(self._early)
        logging.getLogger().addHandler(self._file)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._early)
        logging.getLogger("retrain").addHandler(self._teller)
        logging.getLogger("retrain").setLevel(logging.INFO)
        logging.captureWarnings(capture=True)
        return self

    def __exit__(self, *_: object) -> None:
        logging.captureWarnings(capture=False)
        logging.getLogger("retrain").removeHandler(self._teller)
        for handler in (self._early, self._file):
            if handler is not None:
                logging.getLogger().removeHandler(handler)
                handler.close()
