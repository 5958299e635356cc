"""Stage two: every rule between keys, in one list.

A rule yields problems; it raises nothing and looks at nothing heavier than the file system. A key counts as set when
its value is not its default: the resolved config of a run names every key and must pass as well.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import registry
from retrain.config import adapter, check_eval, check_transforms, values
from retrain.config.keys import keys_of
from retrain.config.rules import problem, source_has_keys, unused, value_of
from retrain.config.schema import KEYS
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.config.compose import Composed
    from retrain.config.rules import Rule

TINY = "builtin:tiny"
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""Losses that clip the ratio on both sides (TRL's `GRPOTrainer._compute_loss`)."""

OWN_REWARD = {"math": "math", "gsm8k": "math", "arithmetic": "match", "jsonl": "math", "hf": "math"}

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_DEVICE = re.compile(r"auto|cpu|(?:(?:gpu|cuda):)?\d+")


def check(composed: Composed) -> list[Problem]:
    """Return what is wrong between the keys of a composed config."""
    return [found for rule in (*RULES, *check_transforms.RULES, *check_eval.RULES) for found in rule(composed)]


# --- model --------------------------------------------------------------------------------------------------------


def model_exists(composed: Composed) -> Iterator[Problem]:
    """A local folder is there; anything else is ``builtin:tiny`` or can be an id on the hub."""
    name = composed.config.model.model
    if name == TINY:
        return
    if name.startswith("builtin:"):
        yield problem(
            composed, "model.model", f'is not in the package; did you mean "{TINY}"?', "the only model inside is tiny"
        )
        return
    path = composed.cwd / Path(name).expanduser()
    if path.is_dir():
        return
    if path.is_file():
        yield problem(
            composed,
            "model.model",
            "is a file, a folder with config.json and weights is needed",
            f'try model = "{path.parent}"',
        )
    elif _looks_local(name, path, composed.cwd):
        siblings = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        question = f'; did you mean "{Path(name).parent / near}"?' if near else ""
        hint = f"folders there: {', '.join(siblings[:8])}" if siblings else "a hub id is written org/name"
        yield problem(composed, "model.model", f"is a folder that does not exist{question}", hint)
    elif not _HUB_ID.fullmatch(name):
        yield problem(composed, "model.model", "is neither a folder nor a hub id", 'a hub id is written "org/name"')


def _looks_local(name: str, path: Path, cwd: Path) -> bool:
    return name.startswith((".", "/", "~")) or (path.parent != cwd and path.parent.is_dir())


def revision_is_of_the_hub(composed: Composed) -> Iterator[Problem]:
    """Only models of the hub have revisions."""
    name = composed.config.model.model
    if name.startswith("builtin:") or (composed.cwd / Path(name).expanduser()).is_dir():
        yield from unused(composed, "model.revision", f"{name} is not on the hub", "leave revision out")


def full_training_is_meant(composed: Composed) -> Iterator[Problem]:
    """Without LoRA: the local backend, a learning rate of the user's, and nothing that needs an adapter."""
    config = composed.config
    if config.model.lora_rank:
        return
    if composed.origins["training.lr"].kind == "default":
        message = "trains every weight, for which the default learning rate is too high"
        yield problem(composed, "model.lora_rank", message, "set training.lr too, such as lr = 1e-6")
    backend = registry.declared("backend", config.backend.backend)
    if backend is not None and "full" not in backend.trains:
        message = f'trains every weight, and backend = "{config.backend.backend}" trains adapters only'
        yield problem(composed, "model.lora_rank", message, 'set lora_rank, or backend = "local"')
    if config.inference.weights == "shadow":
        message = "is a copy with the adapter merged in, and lora_rank = 0 trains no adapter"
        yield problem(composed, "inference.weights", message, 'try weights = "shared"')
    for dotted, key in KEYS.items():
        if key.section == "lora":
            yield from unused(
                composed, dotted, "model.lora_rank = 0 trains no adapter", f"leave {key.name} out, or set lora_rank"
            )


def adapter_fits_the_config(composed: Composed) -> Iterator[Problem]:
    """The adapter to start from is there and can be trained, and no key asks for another shape of it."""
    name = composed.config.model.adapter
    if not name:
        return
    folder = adapter.find(name, composed.cwd)
    if folder is None and (_looks_local(name, composed.cwd / Path(name).expanduser(), composed.cwd)):
        hint = "an adapter of a run is RUN/adapter; a hub id is written org/name"
        yield problem(composed, "model.adapter", "is a folder that does not exist", hint)
    elif folder is None and not (_HUB_ID.fullmatch(name) and "/" in name):
        hint = 'a hub id is written "org/name"; the adapter of a run is named by its path: outputs/mini/latest/adapter'
        yield problem(composed, "model.adapter", "is neither a folder nor a hub id", hint)
    elif folder is not None and (trouble := adapter.not_an_adapter(folder)):
        yield problem(composed, "model.adapter", *trouble)
    elif folder is not None:
        for dotted, message, hint in adapter.conflicts(composed.config, adapter.read(folder)):
            yield problem(composed, dotted, message, hint)
    elif composed.config.model.lora_rank == 0:
        message = "trains every weight, and model.adapter starts from an adapter"
        yield problem(composed, "model.lora_rank", message, "leave one of them out")


# --- algorithm ----------------------------------------------------------------------------------------------------


def scaling_is_for_grpo(composed: Composed) -> Iterator[Problem]:
    """`scale_rewards` belongs to grpo's baseline; a plugin may read it too."""
    mode = composed.config.algorithm.advantage_mode
    if mode != "grpo" and not registry.is_import_path(mode):
        yield from unused(
            composed, "algorithm.scale_rewards", f'advantage_mode = "{mode}" scales by itself', 'scale_rewards = "none"'
        )


def clipping_fits_the_loss(composed: Composed) -> Iterator[Problem]:
    """Every clip that is set can act in the chosen loss, and lies where TRL's formulas make sense."""
    algorithm = composed.config.algorithm
    loss = algorithm.loss_type
    why = f'loss_type = "{loss}" does not clip by it'
    if loss == "cispo" and algorithm.clip_eps_high < 1:
        message = f"bounds the ratio itself by clip_eps_high, and {algorithm.clip_eps_high} is below 1"
        yield problem(composed, "algorithm.loss_type", message, "set clip_eps_high too, such as clip_eps_high = 5.0")
    if loss not in CLIPPED:
        yield from unused(composed, "algorithm.clip_eps", why, "leave clip_eps out")
        yield from unused(composed, "algorithm.delta", why, "leave delta out")
        if loss != "cispo":
            yield from unused(composed, "algorithm.clip_eps_high", why, "leave clip_eps_high out")
    elif 0 < algorithm.delta <= 1 + algorithm.clip_eps:
        message = f"is not above 1 + clip_eps = {1 + algorithm.clip_eps:g}, so that it would undo the clipping"
        yield problem(composed, "algorithm.delta", message, f"try delta = {2 * (1 + algorithm.clip_eps):g}")
    if loss == "vespo":
        why = "vespo weighs whole completions by itself"
        yield from unused(composed, "algorithm.importance_sampling_level", why, 'importance_sampling_level = "token"')


# --- training -----------------------------------------------------------------------------------------------------


def warmup_ends(composed: Composed) -> Iterator[Problem]:
    """The learning rate reaches its height within the run."""
    training = composed.config.training
    if training.warmup_steps >= training.max_steps:
        message = f"is not below training.max_steps = {training.max_steps}: lr would never be reached"
        yield problem(composed, "training.warmup_steps", message, f"try warmup_steps = {training.max_steps // 10}")


def stop_texts_can_stop(composed: Composed) -> Iterator[Problem]:
    """An empty text would end every completion before its first token."""
    if "" in composed.config.training.stop:
        yield problem(
            composed,
            "training.stop",
            "holds an empty text, which ends everything at once",
            'such as stop = ["</answer>"]',
        )


# --- backend ------------------------------------------------------------------------------------------------------


def chosen_honour_the_keys(composed: Composed) -> Iterator[Problem]:
    """No key is set that the chosen backend or engine would not read."""
    for kind, dotted in (("backend", "backend.backend"), ("engine", "inference.engine")):
        name = value_of(composed, dotted)
        offered = registry.declared(kind, name)
        for ignored in offered.ignores if offered is not None else ():
            leaf = ignored.rpartition(".")[2]
            yield from unused(composed, ignored, f'the {kind} "{name}" does not use it', f"leave {leaf} out")


def device_is_one(composed: Composed) -> Iterator[Problem]:
    """One device, by a name that is understood."""
    devices = composed.config.backend.devices.strip()
    if "," in devices:
        first = devices.partition(",")[0].strip()
        yield problem(
            composed, "backend.devices", "names several devices, one is supported", f'try devices = "{first}"'
        )
    elif not _DEVICE.fullmatch(devices):
        hint = 'auto, cpu, gpu:0, cuda:0 or 0; try devices = "auto"'
        yield problem(composed, "backend.devices", "is not a device", hint)


def backend_takes_its_options(composed: Composed) -> Iterator[Problem]:
    """`backend.options` against the backend's own dataclass."""
    name = composed.config.backend.backend
    entry = registry.names("backend").get(name)
    options = composed.config.backend.options
    if entry is None or not options:
        return
    keys = _option_keys(entry.options)
    for option, value in options.items():
        dotted = f"backend.options.{option}"
        origin = composed.origins.get(dotted, composed.origins["backend.options"])
        if option in keys:
            yield from values.resolved_problems(keys[option], value, origin, composed.places)
            continue
        near = nearest(option, keys)
        question = f'; did you mean "{near}"?' if near else ""
        hint = f"its options: {', '.join(keys) or 'none'}"
        yield origin.problem(f'backend = "{name}" has no option "{option}"{question}', hint, dotted)


def _option_keys(target: str) -> dict[str, Any]:
    if not target:
        return {}
    module, _, attribute = target.partition(":")
    options = getattr(importlib.import_module(module), attribute)
    return {key.name: key for key in keys_of("backend.options", options)}


# --- data and reward ----------------------------------------------------------------------------------------------


def source_has_what_it_needs(composed: Composed) -> Iterator[Problem]:
    """A source gets its file or name, and no key that it would not read."""
    yield from source_has_keys(composed, "data")


def reward_uses_its_keys(composed: Composed) -> Iterator[Problem]:
    """A deadline and workers are for the reward that can hang."""
    reward = composed.config.reward.type or OWN_REWARD.get(composed.config.data.source, "")
    if not {reward, composed.config.eval.reward or reward} <= {"match", "random"}:
        return
    for name in ("timeout", "workers"):
        yield from unused(
            composed, f"reward.{name}", f'the reward "{reward}" needs no worker processes', f"leave {name} out"
        )


# --- logging ------------------------------------------------------------------------------------------------------


def wandb_keys_have_a_project(composed: Composed) -> Iterator[Problem]:
    """Nothing is sent to Weights & Biases without a project."""
    if composed.config.logging.wandb_project:
        return
    for name in ("wandb_run_name", "wandb_entity", "wandb_group", "wandb_tags"):
        yield from unused(composed, f"logging.{name}", "logging.wandb_project is empty", "set wandb_project too")


def rollouts_are_kept_somehow(composed: Composed) -> Iterator[Problem]:
    """`keep_rollouts` is a word or a number of steps, as text."""
    if not re.fullmatch(r"all|none|0*[1-9]\d*", composed.config.logging.keep_rollouts):
        yield problem(
            composed,
            "logging.keep_rollouts",
            "is not a choice",
            'all, none, or every so many steps: keep_rollouts = "10"',
        )


RULES: tuple[Rule, ...] = (
    model_exists,
    revision_is_of_the_hub,
    full_training_is_meant,
    adapter_fits_the_config,
    scaling_is_for_grpo,
    clipping_fits_the_loss,
    warmup_ends,
    stop_texts_can_stop,
    chosen_honour_the_keys,
    device_is_one,
    backend_takes_its_options,
    source_has_what_it_needs,
    reward_uses_its_keys,
    wandb_keys_have_a_project,
    rollouts_are_kept_somehow,
)
