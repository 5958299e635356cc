"""Which run or campaign a user means: a path, ``mini`` (its latest), ``mini@-2``, the beginning of a name, ``latest``.

outputs/mini/2025-06-01_12-00-00/                 a run is a folder with run.json in it
outputs/abl/2025-06-01_12-00-00/                  a campaign is a folder with manifest.json in it,
outputs/abl/2025-06-01_12-00-00/runs/hot_s42/     and its runs are in runs/
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTPUTS = Path("outputs")
BY_PATH = "a run with a log_dir of its own is named by its path, such as logs/mini"
DEPTH = 4  # outputs/CAMPAIGN/TIME/runs/LABEL/run.json


def is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


def is_campaign(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def is_either(path: Path) -> bool:
    return is_run(path) or is_campaign(path)


def campaign_of(run: Path) -> Path | None:
    """Return the campaign that a run belongs to; None: it is one on its own."""
    above = run.resolve().parents[1:2]  # CAMPAIGN/runs/LABEL
    return above[0] if above and is_campaign(above[0]) else None


def started(entry: Path) -> float:
    """Return when a run or campaign began (unix seconds); its directory's age where its record cannot say."""
    file, name = ("run.json", "started") if is_run(entry) else ("manifest.json", "created")
    try:
        return float(json.loads((entry / file).read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return entry.stat().st_mtime


def runs_under(folder: Path) -> list[Path]:
    """Return every run below a folder, also those of campaigns, oldest first; ``latest`` links are not followed."""
    return _oldest_first(folder, is_run)


def entries_under(folder: Path) -> list[Path]:
    """Return the campaigns below a folder and the runs that belong to none, oldest first."""
    return _oldest_first(folder, is_either)


def families(is_one: Callable[[Path], bool] = is_either, root: Path = OUTPUTS) -> dict[str, list[Path]]:
    """Return the runs and campaigns under a folder by the name that means the latest of them, each oldest first."""
    found: dict[str, list[Path]] = {}
    for one in _oldest_first(root, is_one):
        found.setdefault(one.relative_to(root).parts[0], []).append(one)
    return dict(sorted(found.items()))


def _oldest_first(folder: Path, is_one: Callable[[Path], bool]) -> list[Path]:
    found = {one.resolve(): one for one in _walk(folder, DEPTH, is_one) if not one.is_symlink()}
    return sorted(found.values(), key=lambda one: (started(one), one.name))


def _walk(folder: Path, depth: int, is_one: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield what is looked for below a folder; what is inside of one is its own and not looked at."""
    try:
        with os.scandir(folder) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=entry.name != "latest"))
    except OSError:  # a folder that may not be read, or is gone by now, holds no run for us
        return
    for path in map(Path, below):
        if is_one(path):
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1, is_one)


def find_run(text: str, root: Path = OUTPUTS) -> Path:
    """Return the run directory that `text` means; `root` is where names are looked for.

    A path, ``mini`` (its latest), ``mini@-2`` (the one before), any beginning that fits one run, or ``latest``.

    Raises:
        ConfigError: nothing fits, or several runs do; the message lists them.
    """
    return _find(text, root, is_run)


def find_either(text: str, root: Path = OUTPUTS) -> Path:
    """Return the run or the campaign that `text` means; `is_campaign` tells which.

    As `find_run`; names mean campaigns and the runs that belong to none. The runs of a campaign are found by their
    paths, and by the beginnings of their names where nothing else fits.

    Raises:
        ConfigError: nothing fits, or several do; the message lists them.
    """
    return _find(text, root, is_either)


def _find(text: str, root: Path, is_one: Callable[[Path], bool]) -> Path:
    name, back = split_position(text)
    path = Path(name)
    if path.is_dir():
        if is_one(path):
            return path
        if below := _oldest_first(path, is_one):
            if all(one.parent == path for one in below):  # outputs/mini: the runs of one TOML
                return pick(below, back, text)
            listed = "\n".join(str(one) for one in below[-10:])
            raise ConfigError(f"{path} is a folder with {len(below)} runs below it, not a run; name one", listed)
    if not root.is_dir():
        raise ConfigError(f"there is no run {text}, and no folder {root} here to look for it in", BY_PATH)
    known = _oldest_first(root, is_one)
    if name == "latest" and known:
        return pick(known, back, text)
    if is_one(root / name):
        return pick([root / name], back, text)
    if "/" not in name and (of_one_toml := _oldest_first(root / name, is_one)):
        return pick(of_one_toml, back, text)
    fitting = _beginning_with(name, known, root) or _beginning_with(name, runs_under(root), root)
    families = {one.relative_to(root).parts[0] for one in fitting}
    if len(fitting) == 1 or (len(families) == 1 and next(iter(families)).startswith(name)):
        return pick(fitting, back, text)
    if fitting:
        listed = "\n".join(str(one) for one in fitting[-10:])
        raise ConfigError(f'"{text}" fits {len(fitting)} runs; write more of it', listed)
    names = sorted({one.relative_to(root).parts[0] for one in known})
    near = nearest(name, names)
    question = f'; did you mean "{near}"?' if near else ""
    raise ConfigError(f"there is no run {text}{question}", f"in {root}: {', '.join(names) or 'no runs yet'}\n{BY_PATH}")


def _beginning_with(name: str, known: list[Path], root: Path) -> list[Path]:
    return [one for one in known if str(one.relative_to(root)).startswith(name) or one.name.startswith(name)]


def split_position(text: str) -> tuple[str, int]:
    """Split ``mini@-2`` into a name and a position from the end; without one it is the last."""
    found = re.fullmatch(r"(.+)@-(\d+)", text)
    return (found[1], int(found[2])) if found and int(found[2]) > 0 else (text, 1)


def pick(runs: list[Path], back: int, text: str) -> Path:
    if back > len(runs):
        counted = "there is only one such run" if len(runs) == 1 else f"there are only {len(runs)} such runs"
        raise ConfigError(f"{text}: {counted}", "\n".join(map(str, runs[-10:])))
    return runs[-back]
