"""Whether, and from where, a run may go on: what `retrain resume RUN` and `CONFIG --resume DIR|auto` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import references, runs
from retrain.config import values
from retrain.config.schema import KEYS
from retrain.config.transforms import planned
from retrain.errors import ConfigError, Problem
from retrain.events import Emit, Warned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.config import Composed
    from retrain.config.schema import RunConfig
    from retrain.store import RunRecord

MAY_CHANGE = frozenset(
    {
        "training.max_steps",
        "training.save_every",
        "training.save_minutes",
        "training.keep_checkpoints",
        "backend.adapter_path",
        "model.local_files_only",
        *(dotted for dotted, key in KEYS.items() if key.section in ("logging", "health", "resume")),
    }
)
"""Length, saving, logging, health: keys that no step depends on."""


def wanted(composed: Composed, emit: Emit) -> Path | None:
    """Return the run that `resume.path` names; None: a fresh start, because `auto` found none that is unfinished.

    Raises:
        ConfigError: there is no such run.
    """
    path = composed.config.resume.path
    if path != "auto":
        return references.find_run(path)
    if composed.path is None:
        raise ConfigError(Problem(message='resume.path = "auto" needs a TOML: runs are found by it', key="resume.path"))
    found = runs.newest_unfinished(composed.name, composed.path, composed.config.logging.log_dir)
    label = composed.path.name
    emit(Warned(message=f"going on with {found}" if found else f"no unfinished run of {label}: a fresh start"))
    return found


def checked(directory: Path, before: RunRecord, old: Composed, now: Composed) -> Composed:
    """Return the config to go on with; a seed that was drawn stays the one that was drawn.

    Raises:
        ConfigError: the run is alive or finished, or the config differs in what its steps depend on.
    """
    if runs.goes_on(directory, before):
        raise ConfigError(
            f"{directory} is being trained by process {before.pid} on {before.host}", "wait for it, or stop it"
        )
    if now.config.training.seed == -1:
        now = now.replace("training.seed", before.seed, "drawn when the run was started")
    problems = list(differences(old, now))
    max_steps = now.config.training.max_steps
    if max_steps < before.steps_done:
        problems.append(
            Problem(
                message=f"training.max_steps = {max_steps}: {directory} has done {before.steps_done} steps already",
                hint=f"--max-steps {before.steps_done} or more",
                key="training.max_steps",
            )
        )
    if problems:
        raise ConfigError(problems)
    if before.state == "done" and max_steps == before.max_steps:
        raise ConfigError(
            f"{directory} is finished: {before.steps_done} of {before.max_steps} steps",
            f"to train it longer: retrain resume {directory} --max-steps {2 * before.max_steps}\n"
            f"to train again: retrain {directory / 'config.toml'}",
        )
    return now


def differences(old: Composed, now: Composed) -> Iterator[Problem]:
    """Yield a problem for each key that differs and that a step depends on."""
    for dotted in KEYS.keys() - MAY_CHANGE:
        before, after = (_value(composed, dotted) for composed in (old, now))
        if before == after or (dotted == "data.path" and Path(before).resolve() == Path(after).resolve()):
            continue
        was, is_ = values.show(before, dotted), values.show(after, dotted)
        yield now.origins[dotted].problem(
            f"{dotted} = {is_}, but the run was started with {was}",
            "a run goes on with what it was started with; for another value start a new run",
            dotted,
        )


def _value(composed: Composed, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(composed.config, section), name)


def warnings(before: RunRecord, config: RunConfig, step: int, *, lost_all: bool) -> Iterator[str]:
    """Yield what the user should know before a run goes on from a step.

    Raises:
        ConfigError: it is finished, and its checkpoints are gone: beginning again would undo it.
    """
    if before.state == "done" and step == 0:
        raise ConfigError(
            f"{before.name} is finished, and there is no whole checkpoint of it to go on from",
            'start a new run from its result: [model] adapter = "RUN/adapter"',
        )
    if before.steps_done and step == 0 and not lost_all:
        yield f"no checkpoint was written yet: the run starts from the beginning, {before.steps_done} steps are lost"
    if lost_all:
        yield f"none of its checkpoints is whole: the run starts from the beginning, {before.steps_done} steps are lost"
    if config.training.max_steps != before.max_steps and (schedules := length_dependent(config)):
        yield (
            f"training.max_steps was {before.max_steps} and is {config.training.max_steps}: {' and '.join(schedules)} "
            f"followed the old length up to step {step}, so this is not the run that it would have been with the new "
            "one from the start"
        )


def length_dependent(config: RunConfig) -> list[str]:
    """Name what depends on `training.max_steps` at every step."""
    found = []
    if config.training.lr_schedule != "constant":
        found.append(f"the learning rate ({config.training.lr_schedule})")
    if any(step.name == "sepa" for step in planned(config)) and -1 in (config.sepa.steps, config.sepa.delay_steps):
        found.append("sepa's lambda")
    return found


def check_data(before: RunRecord, dataset: Mapping[str, Any]) -> None:
    """Refuse to go on with other data under the same name.

    Raises:
        ConfigError: a problem was added, removed or changed since the run was started.
    """
    if before.dataset and before.dataset.get("digest") != dataset.get("digest"):
        then, now = before.dataset.get("rows"), dataset["rows"]
        counted = (
            f"{then} rows are trained on, but not the same ones" if then == now else f"{then} rows then, {now} now"
        )
        raise ConfigError(
            Problem(
                message=f"the data of {dataset['name']} have changed since the run was started: {counted}",
                hint="restore them, or start a new run",
                key="data.source",
            )
        )
