"""Read the documents: their blocks, tables and words, for every test of what they say."""

import re
import shutil
from pathlib import Path

from retrain import manual

REPOSITORY = Path(__file__).parents[1]
TOPICS = REPOSITORY / "retrain" / "manual" / "topics"
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *TOPICS.glob("*.md")])
WRITTEN = [path for path in DOCUMENTS if not path.is_symlink()]

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def cells(line: str) -> list[str]:
    """Return what stands between the bars; of a cell that is one code span, what stands between its ticks."""
    return [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip().strip("|").split("|")]


def table(topic: str, *columns: str) -> list[dict[str, str]]:
    """Return the rows of the one table of a topic that has these columns."""
    found = []
    for part in re.findall(r"(?:^\|.*\n)+", manual.read(topic), re.MULTILINE):
        head, _, *rows = part.splitlines()
        if set(columns) <= set(cells(head)):
            found.append([dict(zip(cells(head), cells(row), strict=True)) for row in rows])
    [only] = found
    return only


def spans(path: Path) -> list[str]:
    """Return what stands in code spans, outside of blocks."""
    prose = FENCED.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def the_name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def in_a_folder(document: Path, folder: Path, monkeypatch) -> dict[Path, str]:
    """Write a document's files, and the plugins that it may name, into a folder; return its TOMLs by their path.

    A block that begins with ``# NAME.toml`` or ``# NAME.py`` is that file; ``# pyproject.toml`` is another program's. A
    jsonl file that a TOML reads is there, with one row.
    """
    monkeypatch.chdir(folder)
    for plugin in (REPOSITORY / "examples" / "plugins").glob("*.py"):
        shutil.copy(plugin, folder)
    tomls = {}
    for language in ("python", "toml"):
        for number, block in enumerate(blocks(document, language)):
            if block.startswith("# pyproject.toml"):
                continue
            named = re.match(rf"# ([\w/-]+\.{'py' if language == 'python' else 'toml'})\b", block)
            path = folder / (named[1] if named else f"block-{number}.{language}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block, encoding="utf-8")
            if language == "toml":
                tomls[path] = block
            for data in re.findall(r'^path = "([\w-]+\.jsonl)"', block, re.MULTILINE):
                (folder / data).write_text('{"question": "17+25=", "answer": 42}\n', encoding="utf-8")
            for variable in re.findall(r"oc\.env:(\w+)", block):
                monkeypatch.setenv(variable, "none")
    return tomls
