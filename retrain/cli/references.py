"""What a user may write for a run: a path, ``mini`` (its latest), ``mini@-2``, the beginning of a name, ``latest``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from retrain.errors import ConfigError, nearest

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
    files = [file for depth in range(1, DEPTH + 1) for file in folder.glob("*/" * depth + "run.json")]
    found = {file.parent.resolve(): file.parent for file in files if not file.parent.is_symlink()}
    return sorted(found.values(), key=lambda run: (started(run), run.name))


def find_run(text: str, root: Path = OUTPUTS) -> Path:
    """Return the run directory that `text` means; `root` is where names are looked for.

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
    if is_name(name, root):
        return pick(runs_under(root / name), back, text)
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


def is_name(name: str, root: Path) -> bool:
    """Tell whether `name` is the folder of one TOML's runs."""
    return "/" not in name and bool(runs_under(root / name))


def pick(runs: list[Path], back: int, text: str) -> Path:
    if back > len(runs):
        raise ConfigError(f"{text}: there are only {len(runs)} such runs", "\n".join(map(str, runs[-10:])))
    return runs[-back]
