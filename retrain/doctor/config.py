"""Whether a config would run here: where it writes, its model, the device and its memory, the names that it chooses."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import estimate, preflight, shapes, store
from retrain.config.adapter import hub_place, not_an_adapter, read_json
from retrain.config.cautions import cautions
from retrain.doctor import services
from retrain.doctor.finding import Found, NotKnownError, fail, ok, skipped, warn
from retrain.doctor.subject import known
from retrain.errors import ConfigError
from retrain.estimate import gigabytes
from retrain.events import ignore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.doctor.machine import Gpu
    from retrain.doctor.subject import Subject


def packages(subject: Subject) -> Found:
    """Tell whether what the config chooses is installed."""
    from retrain.run import require_packages

    require_packages(subject.composed)
    config = subject.config
    return ok(f"backend {config.backend.backend} and engine {config.inference.engine} are installed")


def second_look(subject: Subject) -> list[Found]:
    """Repeat what deserves a second look."""
    found = [warn(said, "") for said in cautions(subject.config)]
    return found or [ok("nothing deserves a second look")]


def directory(subject: Subject) -> Found:
    """Compare what the run would write with the disk that it would write to."""
    config = subject.config
    place = store.planned_directory(config, subject.composed.name, dt.datetime.now().astimezone())
    preflight.check_place(place)
    dtype = estimate.dtype_of(config, gpu=estimate.on_gpu(config.backend.devices))
    taken = estimate.disk(config, shapes.measure(config), dtype)
    rollouts = taken.rollouts * subject.runs
    weights = None if taken.total is None else taken.total * subject.runs - rollouts
    free, needed = subject.machine.free_at(place), rollouts + (weights or 0)
    parts = f"completions {gigabytes(rollouts)}" + (f", weights {gigabytes(weights)}" if weights is not None else "")
    many = f"{subject.runs} runs, " if subject.runs > 1 else ""
    said = f"{place}: {many}at most {gigabytes(needed)} ({parts}), {gigabytes(free)} free"
    if weights is not None and weights > free:
        return fail(said, "another disk for logging.log_dir, or training.keep_checkpoints = 1")
    if needed > free:
        return warn(said, 'logging.keep_rollouts = "10" keeps every tenth step\'s completions')
    return ok(said)


def adapter_path(subject: Subject) -> Found:
    """Tell where else the final adapter would go."""
    place = preflight.check_adapter_path(subject.config)
    if place is None:
        return ok("none: the final adapter stays in the run")
    preflight.check_place(place, "backend.adapter_path")
    return warn(f"{place} will be replaced", "") if place.is_dir() and any(place.iterdir()) else ok(str(place))


def resume(subject: Subject) -> Found:
    """Tell whether the run that is to be gone on with can be."""
    if not subject.config.resume.path:
        return ok("a new run")
    from retrain import checkpoint, resuming
    from retrain.config import compose
    from retrain.store import RunRecord

    found = resuming.wanted(subject.composed, ignore)
    if found is None:
        return ok("no unfinished run of this TOML: a new run")
    record = RunRecord.read(found)
    resuming.checked(found, record, compose(found / "config.toml"), subject.composed)
    newest, complaints = checkpoint.newest_sound(found / "checkpoints")
    said = f"goes on with {found} at step {checkpoint.step_of(newest) if newest else 0} of {record.max_steps}"
    return warn(f"{said}; {'; '.join(complaints)}", "") if complaints else ok(said)


def tracker(subject: Subject) -> Found:
    """Look at the tracker that the run would be sent to."""
    return services.tracker(subject.config)


def model(subject: Subject) -> Found:
    """Tell where the model is, or how much of it would have to be downloaded."""
    subject.locate_model()
    from retrain import hub

    wanted = subject.config.model
    folder = hub.model_folder(wanted)
    if folder is not None:
        if missing := hub.missing_weights(folder):
            return fail(f"{folder} lacks {missing}", "complete the folder, or name another model.model")
        return ok(f"{wanted.model}: {size_of(subject)}")
    survey = hub.survey_model(wanted)
    if not survey.missing_bytes:
        return ok(f"{wanted.model} is in the cache: {size_of(subject)}")
    cache = hub_place("HF_HUB_CACHE", "hub")
    said = f"{wanted.model}: {gigabytes(survey.missing_bytes)} of {gigabytes(survey.total_bytes)} to be downloaded"
    if survey.missing_bytes > (free := subject.machine.free_at(cache)):
        return fail(f"{said}, and {gigabytes(free)} are free for {cache}", "HF_HOME on a larger disk")
    return ok(f"{said}, by the run or by `{subject.fetch}`")


def size_of(subject: Subject) -> str:
    """Say how large the model is, and how much of it is trained."""
    size = shapes.measure(subject.config)
    if size.parameters is None or size.trainable is None:
        return size.note
    trained = "all are trained" if size.trainable == size.parameters else f"{size.trainable:,} are trained"
    return f"{size.parameters:,} parameters ({size.architecture}), {trained}"


def adapter(subject: Subject) -> Found:
    """Tell whether the adapter that training starts from is there."""
    name = subject.config.model.adapter
    if not name:
        return ok("a new one" if subject.config.model.lora_rank else "none: every weight is trained")
    subject.require_imports()
    from retrain import hub

    folder = hub.locate_adapter(subject.config.model)
    if trouble := not_an_adapter(folder):
        return fail(f"{name} {trouble[0]}", trouble[1])
    return ok(f"starts from {folder}")


def tokenizer(subject: Subject) -> Found:
    """Tell how prompts are put to the model."""
    found = subject.load_tokenizer()
    template = "chat template" if found.hf.chat_template else "no chat template: prompts are plain text"
    return ok(f"{len(found.hf):,} tokens, {template}")


def algorithm(subject: Subject) -> Found:
    """Make the baseline and the pipeline: plugins are imported, and take their options."""
    tokenizer = subject.tokenizer
    from retrain.advantages import baselines, pipeline
    from retrain.config.transforms import planned

    config, places = subject.config, subject.composed.places
    problems = []
    for make in (
        lambda: baselines.build(config.algorithm, places),
        lambda: pipeline.build(config, tokenizer, places),
    ):
        try:
            make()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return ok(" → ".join([config.algorithm.advantage_mode, *(step.name for step in planned(config))]))


def device(subject: Subject) -> Found:
    """Tell where the run would compute."""
    chosen = device_of(subject)
    return ok(f"GPU {chosen.name}" if chosen else "the CPU")


def device_of(subject: Subject) -> Gpu | None:
    """Return the GPU that the run would take; None: the CPU.

    Raises:
        ConfigError: the config names a device that is not here.
    """
    if subject.machine.torch.broken:
        raise NotKnownError("torch cannot be imported")
    gpus = subject.machine.torch.gpus
    name = subject.config.backend.devices.strip().lower()
    if name == "cpu" or (name == "auto" and not gpus):
        return None
    index = 0 if name == "auto" else int(name.rpartition(":")[2])
    if index >= len(gpus):
        here = ", ".join(["cpu", *(f"gpu:{i} ({gpu.name})" for i, gpu in enumerate(gpus))])
        raise ConfigError(f'backend.devices = "{name}" is not on this machine', f"it has {here}: --devices auto")
    return gpus[index]


def memory(subject: Subject) -> Found:
    """Compare the estimate of each phase with what the device has, and with what of it is free."""
    chosen = known("there is no such device", lambda: device_of(subject))
    here = subject.machine.memory
    total, free = (chosen.total, chosen.free) if chosen else (here.total, here.available)
    try:
        longest = max(prompt_lengths(subject))
    except NotKnownError:
        longest = estimate.ASSUMED_PROMPT
    needed = estimate.memory(subject.config, gpu=chosen is not None, device_bytes=total, prompt_tokens=longest)
    if needed.peak_bytes is None:
        return skipped(needed.note, subject.fetch)
    phases = ", ".join(f"{phase.name} {gigabytes(phase.bytes)}" for phase in needed.phases)
    said = f"{phases}; {gigabytes(free)} of {gigabytes(total)} free"
    load = next(phase.bytes for phase in needed.phases if phase.name == "load")
    if problem := estimate.fits(needed, total):
        verdict = fail if load > total else warn
        return verdict(f"{said}. {services.capital(problem.message)}", problem.hint)
    if needed.peak_bytes > free:
        return warn(f"{said}: enough only when nothing else uses the device", "end what else runs there")
    return ok(said)


def prompt_lengths(subject: Subject) -> Sequence[int]:
    """Return the tokens of prompts: of as many as a run measures, the longest by characters."""
    from retrain.run import MEASURED_PROMPTS

    encode = subject.tokenizer.encode_prompt
    tasks = sorted(subject.data.tasks, key=lambda task: -sum(len(m["content"]) for m in task.prompt))
    return [len(encode(task.prompt)) for task in tasks[:MEASURED_PROMPTS]]


def max_positions(subject: Subject) -> int | None:
    """Return the tokens that the model was made for, as its config.json says; None: it says nothing, or is not here."""
    wanted = subject.config.model
    folder = shapes.local_folder(wanted.model, wanted.revision)
    if folder is None:
        return None
    return read_json(Path(folder) / "config.json").get("max_position_embeddings")
