"""How large a model is, from the headers of its files: no weight is read and no library is loaded."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.config.schema import RunConfig

NOT_CACHED = "unknown: not cached"
EMBEDDINGS = ("embed", "wte", "wpe", "lm_head", "output")  # no adapter goes on these


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """parameters, trainable: None where they cannot be told without a download; `note` then says why."""

    architecture: str
    parameters: int | None
    trainable: int | None
    note: str = ""


def measure(config: RunConfig) -> ModelSize:
    """Count the parameters of the config's model, and those that its adapter would train."""
    folder = local_folder(config.model.model, config.model.revision)
    if folder is None:
        return ModelSize(architecture="", parameters=None, trainable=None, note=NOT_CACHED)
    try:
        architecture = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
        shapes = dict(tensor_shapes(folder))
    except (OSError, ValueError) as error:
        return ModelSize(architecture="", parameters=None, trainable=None, note=f"unknown: {folder}: {error}")
    if not shapes:
        note = "unknown: its weights are not here as safetensors"
        return ModelSize(architecture=architecture, parameters=None, trainable=None, note=note)
    total = sum(math.prod(shape) for shape in shapes.values())
    rank = config.model.lora_rank
    trainable = adapter_size(shapes, rank, config.lora.target_modules) if rank else total
    return ModelSize(architecture=architecture, parameters=total, trainable=trainable)


def local_folder(model: str, revision: str) -> Path | None:
    """Return the folder that holds the model's files on this machine, without asking any network."""
    if model == tiny.NAME:
        return tiny.path()
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser() / f"models--{model.replace('/', '--')}"
    reference = cache / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    found = cache / "snapshots" / commit if commit else None
    return found if found is not None and (found / "config.json").is_file() else None


def tensor_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield every tensor's name and shape.

    A safetensors file begins with the length of its header, eight bytes, and the header, JSON.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))  # a damaged length may be astronomical
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor["shape"]


def adapter_size(shapes: dict[str, list[int]], rank: int, target_modules: str) -> int:
    """Count what LoRA adds: rank·(m + n) for each [m, n] weight that gets an adapter."""
    wanted = [] if target_modules.strip() == "all-linear" else [n.strip() for n in target_modules.split(",")]

    def targeted(name: str) -> bool:
        layer = name.removesuffix(".weight")
        if wanted:
            return any(layer == module or layer.endswith(f".{module}") for module in wanted)
        return not any(part in layer for part in EMBEDDINGS)

    return sum(rank * sum(shape) for name, shape in shapes.items() if len(shape) == 2 and targeted(name))
