"""Checkpoints that are complete or absent: written aside, hashed, fsynced, renamed.

    checkpoints/step-20/manifest.json    {"format": 2, "step": 20, "files": {"optimizer.pt": "sha256…", …}, "digest": …}

A folder that has its name has all of its files. Where the disk changed them later, `verify` says which.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT = 2
WITHOUT_DIGEST = 1  # the format whose manifest had none
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


def _not_written() -> tuple[type[Exception], ...]:
    """Return what a full disk is called by whoever writes: torch says RuntimeError, safetensors has its own."""
    safetensors = sys.modules.get("safetensors")
    return (OSError, RuntimeError, *([safetensors.SafetensorError] if safetensors else []))


@contextlib.contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; when the block ends well, it becomes `final` in one move.

    Raises:
        RunError: it could not be written; nothing that was complete is lost.
    """
    aside = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in [*_files(aside), *(path for path in aside.rglob("*") if path.is_dir()), aside]:
            _sync(path)
        replace_folder(aside, final)
    except _not_written() as error:
        raise RunError(
            f"{final} could not be written: {error}",
            "free some space or make the folder writable, then: retrain resume RUN",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def writing(final: Path, *, step: int) -> Iterator[Path]:
    """Do as `publishing`, and seal the folder with its manifest: a checkpoint.

    Raises:
        RunError: it could not be written.
    """
    with publishing(final) as aside:
        yield aside
        manifest = {
            "format": FORMAT,
            "step": step,
            "files": {str(f.relative_to(aside)): _sha256(f) for f in _files(aside)},
        }
        sealed = {**manifest, "digest": _digest(manifest)}
        (aside / MANIFEST).write_text(json.dumps(sealed, indent=1), encoding="utf-8")


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash a manifest, so that a damaged one is not taken for one of another format."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def replace_folder(folder: Path, final: Path) -> None:
    """Give a finished folder its final name, in one move also where a folder of that name is there already."""
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if not final.exists():
        folder.rename(final)
    elif _exchange(folder, final):
        folder.rename(replaced)
    else:
        final.rename(replaced)
        folder.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names at once; False where the system or its file system cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def verify(folder: Path) -> str:
    """Say what is wrong with a checkpoint; empty when every file is what it was.

    Raises:
        ConfigError: another version of retrain wrote it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        digest = manifest.pop("digest", None)
    except (OSError, ValueError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read ({error})"
    if digest != _digest(manifest) and not (digest is None and manifest.get("format") == WITHOUT_DIGEST):
        return f"its {MANIFEST} is damaged"
    if manifest["format"] != FORMAT:
        raise ConfigError(
            f"{folder} has format {manifest['format']}, this version of retrain reads {FORMAT}: a checkpoint holds the "
            "state of the program that wrote it, and going on with part of it would not be the same run",
            "go on with the retrain that wrote it (run.json names its version), or start anew from its adapter: "
            "model.adapter",
        )
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
    """The newest checkpoint whose files are whole, and what is wrong with newer ones.

    Raises:
        ConfigError: another version of retrain wrote them.
    """
    complaints = []
    for folder in reversed(complete(checkpoints)):
        trouble = verify(folder)
        if not trouble:
            return folder, complaints
        complaints.append(f"{folder} is left out: {trouble}")
    return None, complaints


def set_aside(checkpoints: Path, *, after: int) -> None:
    """Rename the checkpoints of later steps to `damaged-step-N`: a run that goes on from `after` writes its own."""
    for folder in complete(checkpoints):
        if step_of(folder) > after:
            kept = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)


def prune(checkpoints: Path, keep: int, *, spare: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints, and that of step `spare`; call it once the newest is on disk.

    A folder first loses its name, so that none is ever half there. What a killed process left half written or half
    deleted goes too.
    """
    for pattern in (".step-*.partial", ".step-*.replaced"):
        for leftover in checkpoints.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)
    for folder in complete(checkpoints)[:-keep]:
        if step_of(folder) != spare:
            condemned = folder.with_name(f".{folder.name}.replaced")
            folder.rename(condemned)
            shutil.rmtree(condemned, ignore_errors=True)
