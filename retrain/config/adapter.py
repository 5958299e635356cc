"""What an adapter says of itself: `adapter_config.json`, read without any library.

An adapter that training starts from brings its own rank, scale and layers; the keys that would choose them for a new
one may agree with it or be left at their defaults.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.config.schema import RunConfig

FILE = "adapter_config.json"
SUPPORTED_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a LoRA that leave the base model alone; after the others (PiSSA, OLoRA, …) the base is another one."""

BEYOND = {
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "arrow_config": "routing (Arrow)",
    "kasa_config": "KaSA",
    "layer_replication": "repeated layers",
    "lora_bias": "biases of its own",
    "megatron_config": "Megatron layers",
    "modules_to_save": "whole trained modules",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "parameters outside of linear layers",
    "trainable_token_indices": "trained token embeddings",
    "use_bdlora": "block-diagonal factors (BD-LoRA)",
    "use_qalora": "quantised inputs (QA-LoRA)",
    "velora_config": "VeLoRA",
}
"""Settings of PEFT's LoRA that put more into the model than scale·B·A, beside DoRA's magnitudes, which work."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What matters of an adapter_config.json.

    target_modules: names, or a regular expression; beyond: why training cannot start from it, empty if it can
    """

    rank: int
    alpha: float
    target_modules: frozenset[str] | str
    base: str
    beyond: str


def not_an_adapter(folder: Path) -> tuple[str, str] | None:
    """Say why a folder is no adapter that training can start from, and what to give instead; None: it is one."""
    if not (folder / FILE).is_file():
        return _without_config(folder)
    try:
        beyond = read(folder).beyond
    except ValueError as error:
        return f"cannot be read: {folder / FILE}: {error}", "save the adapter again"
    if beyond:
        return beyond, "a LoRA or DoRA adapter on linear layers is needed"
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        return "has no weights", f"adapter_model.safetensors belongs beside {FILE}"
    return None


def _without_config(folder: Path) -> tuple[str, str]:
    inside = [folder / name for name in ("adapter-best", "adapter") if (folder / name / FILE).is_file()]
    ways = " or ".join(f'adapter = "{path}"' for path in inside)
    if (folder / "run.json").is_file():
        return "is a run, its adapter is needed", ways or "it has none: it is not finished, or trained every weight"
    if (folder / "config.json").is_file():
        return "holds a whole model", "name it as model.model"
    return f"has no {FILE}", f"try {ways}" if ways else f"an adapter's folder holds {FILE} and its weights"


def read(folder: Path) -> AdapterConfig:
    """Read a folder's adapter_config.json.

    Raises:
        ValueError: it is damaged, or not what PEFT writes.
    """
    raw = read_json(folder / FILE)
    targets = raw.get("target_modules") or ""
    try:
        return AdapterConfig(
            rank=int(raw.get("r", 8)),
            alpha=float(raw.get("lora_alpha", 8)),
            target_modules=targets if isinstance(targets, str) else frozenset(map(str, targets)),
            base=str(raw.get("base_model_name_or_path") or ""),
            beyond=_beyond(raw),
        )
    except TypeError as error:
        raise ValueError(str(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is not there, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return found


def _beyond(raw: Mapping[str, Any]) -> str:
    kind = str(raw.get("peft_type"))
    if kind != "LORA":
        return f"is an adapter of the kind {kind}"
    if raw.get("task_type") not in (None, "CAUSAL_LM"):
        return f"was made for the task {raw['task_type']}"
    if raw.get("bias", "none") != "none":
        return f'trains biases (bias = "{raw["bias"]}")'
    start = raw.get("init_lora_weights", True)
    if start not in SUPPORTED_STARTS:
        return f'started from "{start}", which changes the base model too'
    used = [f"{text} ({name})" for name, text in BEYOND.items() if raw.get(name)]
    return f"has {', '.join(used)}" if used else ""


def conflicts(config: RunConfig, facts: AdapterConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what is wrong with its value, fix) for each key that says something else than the adapter.

    A key counts as set when it is not at its default, as everywhere: the resolved config of a run names every key.
    """
    rank, alpha, targets = config.model.lora_rank, config.lora.alpha, config.lora.target_modules
    hint = "leave it out: the adapter's own is used"
    if rank == 0:
        yield (
            "model.lora_rank",
            "trains every weight, and model.adapter starts from an adapter",
            "leave one of them out",
        )
    elif rank not in (facts.rank, KEYS["model.lora_rank"].default):
        yield "model.lora_rank", f"is not the rank of model.adapter, {facts.rank}", hint
    if alpha not in (facts.alpha, KEYS["lora.alpha"].default):
        yield "lora.alpha", f"is not the alpha of model.adapter, {facts.alpha:g}", hint
    if targets != KEYS["lora.target_modules"].default and not _same_targets(targets, facts.target_modules):
        own = facts.target_modules if isinstance(facts.target_modules, str) else ",".join(sorted(facts.target_modules))
        yield "lora.target_modules", f'are not the layers of model.adapter, "{own}"', hint


def _same_targets(text: str, own: frozenset[str] | str) -> bool:
    names = {name.strip() for name in text.split(",") if name.strip()}
    return text == own if isinstance(own, str) else names == own


def find(name: str, cwd: Path = Path()) -> Path | None:
    """Return the folder of an adapter on this machine, without asking any network."""
    folder = cwd / Path(name).expanduser()
    return folder if folder.is_dir() else cached(name, "", FILE)


def hub_place(variable: str, name: str) -> Path:
    """Return where huggingface_hub keeps something: what its own variable says, else `name` below HF_HOME."""
    if given := os.environ.get(variable):
        return Path(given).expanduser()
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or home).expanduser() / name


def cached(name: str, revision: str, file: str) -> Path | None:
    """Return the folder in which the hub's local cache holds a repository's file, if it does."""
    cache = hub_place("HF_HUB_CACHE", "hub") / f"models--{name.replace('/', '--')}"
    reference = cache / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    found = cache / "snapshots" / commit if commit else None
    return found if found is not None and (found / file).is_file() else None
