"""The manual: one Markdown file a topic, in `topics/`. `docs/` links to the same files.

    # name: what it is about      the first line of every topic

What the program says elsewhere (keys, names, exit codes, …) stands between marks and is written by `retrain man --sync`
(`marks`). `index.jsonl` holds the same for the search, an entry a line (`search`). Reading imports no other part of the
program.

Where this package cannot be written to, a user edits a copy in a folder of their own, which is read from then on;
topics that the copy lacks come from the package.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from retrain import __version__
from retrain.errors import ConfigError, nearest, unknown_name

PACKAGED = Path(__file__).parent / "topics"
INDEX = Path(__file__).parent / "index.jsonl"
MADE_BY = ".made-by"  # in a copy: the version that it was copied from


def packaged() -> dict[str, Path]:
    """Return every topic of this version with its file, by name."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.md"))}


def files() -> dict[str, Path]:
    """Return every topic with the file that is read, by name."""
    folder = copied()
    found = packaged() | ({path.stem: path for path in folder.glob("*.md")} if folder else {})
    return dict(sorted(found.items()))


def topics() -> dict[str, str]:
    """Return every topic with what it is about, in a line."""
    found = {}
    for name, path in files().items():
        with path.open(encoding="utf-8", errors="replace") as lines:
            found[name] = lines.readline().strip().partition(": ")[2]
    return found


def file(topic: str) -> Path:
    """Return the file of a topic.

    Raises:
        ConfigError: there is no such topic; the message names the nearest one, and the search.
    """
    known = files()
    if topic not in known:
        problem = unknown_name(kind="topic of the manual", name=topic, known=list(known))
        search = "" if nearest(topic, known) else f'\nretrain man --search "{topic}" looks for it everywhere'
        raise ConfigError(problem.message, problem.hint + search)
    return known[topic]


def read(topic: str) -> str:
    """Return a topic as it is written, in Markdown; bytes of a copy that are no UTF-8 are shown as �.

    Raises:
        ConfigError: as for `file`.
    """
    return file(topic).read_text(encoding="utf-8", errors="replace")


# --- where it can be edited -------------------------------------------------------------------------------------------


def is_writable(folder: Path) -> bool:
    """Tell whether files can be changed and added there."""
    return all(os.access(path, os.W_OK) for path in (folder, *folder.glob("*.md")))


def own_folder() -> Path:
    """Return where this user's copy is kept, whether it exists or not (XDG base directories)."""
    home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not home.is_absolute():  # the standard says to ignore it then
        home = Path(os.path.expanduser("~/.local/share"))  # noqa: PTH111  Path.expanduser raises where there is no home
    return home / "retrain" / "manual"


def copied() -> Path | None:
    """Return the folder of the copy that is read; None: the package's own topics are."""
    if is_writable(PACKAGED):
        return None
    folder = own_folder()
    return folder if (folder / MADE_BY).is_file() else None


def copied_from() -> str:
    """Return the version that the copy was made from; empty without a copy."""
    folder = copied()
    return (folder / MADE_BY).read_text(encoding="utf-8").strip() if folder else ""


def editable() -> Path:
    """Return a folder of topics that can be written to: the package's, else the copy, which is made if need be.

    Raises:
        ConfigError: there is no place for a copy.
    """
    if is_writable(PACKAGED):
        return PACKAGED
    folder = own_folder()
    if not folder.is_absolute():
        raise ConfigError(
            f"{PACKAGED} cannot be written to, and no home folder is known for a copy",
            "set XDG_DATA_HOME to a folder of yours",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in packaged().values():
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        if not (folder / MADE_BY).exists():  # last: an interrupted copy is none
            (folder / MADE_BY).write_text(f"{__version__}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{PACKAGED} cannot be written to, and neither can a copy: {error}",
            "set XDG_DATA_HOME to a folder of yours",
        ) from error
    return folder
