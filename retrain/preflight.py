"""What can be known about the disk before a run writes to it, so that hours of training are not lost at their end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from retrain.config.schema import RunConfig

LEAST_FREE = 50 * 2**20  # bytes; less than this is gone with the first checkpoints of even a tiny model
OURS = ("adapter_config.json", "config.json")  # what a folder that a run published holds beside its model card


def check_place(directory: Path, key: str = "logging.log_dir") -> Path:
    """Make sure, as far as can be known beforehand, that a directory can be written; `key` chooses it.

    Raises:
        ConfigError: a file is in the way, the folder is not ours, or the disk is full.
    """
    parent = directory.expanduser().absolute()
    while not parent.exists():
        parent = parent.parent
    stats = os.statvfs(parent)
    free = stats.f_bavail * stats.f_frsize
    if not parent.is_dir():
        trouble = f"{parent} is a file"
    elif not os.access(parent, os.W_OK | os.X_OK):
        trouble = f"{parent} cannot be written"
    elif free < LEAST_FREE:
        trouble = f"the disk of {parent} has only {free / 2**20:.0f} MB left"
    else:
        return directory
    raise ConfigError(Problem(message=trouble, hint=f"choose another {key}", key=key))


def check_adapter_path(config: RunConfig) -> Path | None:
    """Make sure that the final adapter's other place holds nothing that a run did not put there.

    Raises:
        ConfigError: it is a file, the working directory or one above it, or a folder with something else inside.
    """
    if not config.backend.adapter_path:
        return None
    place = Path(config.backend.adapter_path).expanduser().absolute()
    published = any((place / name).exists() for name in OURS) and (place / "README.md").exists()
    if place.exists() and not place.is_dir():
        trouble = "is a file"
    elif Path.cwd().is_relative_to(place.resolve()):
        trouble = "is the working directory, or one above it"
    elif place.is_dir() and any(place.iterdir()) and not published:
        trouble = "is a folder that holds something else than an adapter"
    else:
        return place
    hint = "it would be replaced at the end: name a new folder, such as --adapter-path adapters/mini"
    shown = config.backend.adapter_path
    raise ConfigError(
        Problem(message=f'backend.adapter_path = "{shown}" {trouble}', hint=hint, key="backend.adapter_path")
    )
