"""Which run a user means: a path, ``mini`` (its latest), ``mini@-2``, the beginning of a name, ``latest``.

outputs/mini/2025-06-01_12-00-00/   a run is a folder with run.json in it
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUTS = Path("outputs")
DEPTH = 4  # outputs/CAMPAIGN/TIME/runs/LABEL/run.json


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


def started(run: Path) -> float:
    """Return when a run began (unix seconds); its directory's age where run.json cannot say."""
    try:
        return float(json.loads((run / "run.json").read_text(encoding="utf-8"))["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return run.stat().st_mtime


def runs_under(folder: Path) -> list[Path]:
    """Return every run below a folder, oldest first; ``latest`` links are not counted twice."""
    found = {run.resolve(): run for run in _walk(folder, DEPTH) if not run.is_symlink()}
    return sorted(found.values(), key=lambda run: (started(run), run.name))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the runs below a folder; what is inside a run is its own and not looked at."""
    try:
        with os.scandir(folder) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:  # a folder that may not be read, or is gone by now, holds no run for us
        return
    for path in map(Path, below):
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1)


def find_run(text: str, root: Path = OUTPUTS) -> Path:
    """Return the run directory that `text` means; `root` is where names are looked for.

    A path, ``mini`` (its latest), ``mini@-2`` (the one before), any beginning that fits one run, or ``latest``.

    Raises:
        ConfigError: nothing fits, or several runs do; the message lists them.
    """
    name, back = split_position(text)
    path = Path(name)
    if path.is_dir():
        if is_run(path):
            return path
        if below := runs_under(path):
            return pick(below, back, text)
    if not root.is_dir():
        raise ConfigError(f"there is no run {text}, and no folder {root} here to look for it in")
    runs = runs_under(root)
    if name == "latest" and runs:
        return pick(runs, back, text)
    if is_run(root / name):
        return pick([root / name], back, text)
    if "/" not in name and (of_one_toml := runs_under(root / name)):
        return pick(of_one_toml, back, text)
    fitting = [run for run in runs if str(run.relative_to(root)).startswith(name) or run.name.startswith(name)]
    families = {run.relative_to(root).parts[0] for run in fitting}
    if len(fitting) == 1 or (len(families) == 1 and next(iter(families)).startswith(name)):
        return pick(fitting, back, text)
    if fitting:
        listed = "\n".join(str(run) for run in fitting[-10:])
        raise ConfigError(f'"{text}" fits {len(fitting)} runs; write more of it', listed)
    names = sorted({run.relative_to(root).parts[0] for run in runs})
    near = nearest(name, names)
    question = f'; did you mean "{near}"?' if near else ""
    raise ConfigError(f"there is no run {text}{question}", f"in {root}: {', '.join(names) or 'no runs yet'}")


def split_position(text: str) -> tuple[str, int]:
    """Split ``mini@-2`` into a name and a position from the end; without one it is the last."""
    found = re.fullmatch(r"(.+)@-(\d+)", text)
    return (found[1], int(found[2])) if found and int(found[2]) > 0 else (text, 1)


def pick(runs: list[Path], back: int, text: str) -> Path:
    if back > len(runs):
        raise ConfigError(f"{text}: there are only {len(runs)} such runs", "\n".join(map(str, runs[-10:])))
    return runs[-back]
