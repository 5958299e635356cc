"""Checkpoints that are complete or absent: written aside, hashed, fsynced, renamed.

    checkpoints/step-20/manifest.json    {"format": 1, "step": 20, "files": {"optimizer.pt": "sha256…", …}}

A folder that has its name has all of its files. Where the disk changed them later, `verify` says which.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING

from retrain.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = 1
MANIFEST = "manifest.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def writing(final: Path, *, step: int) -> Iterator[Path]:
    """Yield an empty folder beside `final`; when the block ends well, it becomes `final` in one move.

    Raises:
        RunError: the checkpoint could not be written; nothing that was complete is lost.
    """
    aside = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        commit(aside, final, step=step)
    except OSError as error:
        raise RunError(f"the checkpoint {final} could not be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def commit(folder: Path, final: Path, *, step: int) -> None:
    """Seal a folder with its manifest and give it its final name."""
    files = {str(file.relative_to(folder)): _sha256(file) for file in _files(folder)}
    manifest = {"format": FORMAT, "step": step, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for file in _files(folder):
        _sync(file)
    replace_folder(folder, final)


def replace_folder(folder: Path, final: Path) -> None:
    """Give a finished folder its final name; what had that name before is gone only once the new one is there."""
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    folder.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def verify(folder: Path) -> str:
    """Say what is wrong with a checkpoint; empty when every file is what it was."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        return f"its manifest cannot be read ({error})"
    if manifest["format"] != FORMAT:
        return f"it has format {manifest['format']}, this version reads {FORMAT}"
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} is damaged"
    return ""


def step_of(folder: Path) -> int:
    """The step a checkpoint folder is named after."""
    return int(folder.name.removeprefix("step-"))


def complete(checkpoints: Path) -> list[Path]:
    """Every finished checkpoint under a folder, oldest first."""
    return sorted(checkpoints.glob("step-*"), key=step_of)


def newest_sound(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are whole, and what is wrong with newer ones."""
    complaints = []
    for folder in reversed(complete(checkpoints)):
        trouble = verify(folder)
        if not trouble:
            return folder, complaints
        complaints.append(f"{folder} is left out: {trouble}")
    return None, complaints


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; called once the newest is on disk."""
    for folder in complete(checkpoints)[:-keep]:
        shutil.rmtree(folder)
