"""A file of your own: one JSON object a line, UTF-8.

    {"question": "Ann has 3 boxes of 12 pens. How many pens?", "answer": 36}

`data.prompt_key` and `data.answer_key` name the columns (by default "question" and "answer"). The prompt is text or a
list of chat messages; an answer that is a number is taken exactly as it is written (``1.50`` stays ``1.50``). An
optional "id" names the row, else its file and line do. Every other column is kept for rewards that want it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.data.rows import RowError, absent_everywhere, id_of, shown, task_of
from retrain.data.source import Source, unused
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.config.schema import Data
    from retrain.types import Task

MAX_LISTED = 20

Row = tuple[int, dict[str, Any]]  # line, columns


def load(section: Data) -> Source:
    """Read the rows of `data.path`.

    Raises:
        ConfigError: the file cannot be read, or rows are wrong: up to twenty of them with file, line and reason.
    """
    problems = unused(section, "name", "split")
    if not section.path:
        problems.append(Problem(message="data.path is empty; name the file of data.source = jsonl", key="data.path"))
    if problems:
        raise ConfigError(problems)
    path = Path(section.path)
    prompt_key, answer_key = section.prompt_key or "question", section.answer_key or "answer"
    rows, problems = _rows(path, answer_key)
    if absent := absent_everywhere([row for _, row in rows], prompt_key=prompt_key, answer_key=answer_key):
        raise ConfigError(replace(problem, file=str(path)) for problem in absent)
    tasks: list[Task] = []
    for line, row in rows:
        try:
            name = id_of(row, f"{path.stem}-{line}")
            tasks.append(task_of(row, task_id=name, prompt_key=prompt_key, answer_key=answer_key))
        except RowError as error:
            problems.append(Problem(message=str(error), hint=error.hint, file=str(path), line=line))
    if not problems:
        problems = _repeated_ids(tasks, [line for line, _ in rows], path)
    if problems:
        raise ConfigError(_listed(problems, path))
    if not tasks:
        raise ConfigError(Problem(message="the file has no rows", hint="one JSON object a line", file=str(path)))
    return Source(tasks=tasks)


def _rows(path: Path, answer_key: str) -> tuple[list[Row], list[Problem]]:
    """Return every row that is a JSON object, and what is wrong with the others."""
    rows, problems = [], []
    for line, raw in _lines(path):
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            if text.strip():
                rows.append((line, _object(text, answer_key)))
        except UnicodeDecodeError as error:
            message = f"not UTF-8: 0x{raw[error.start]:02x} is byte {error.start + 1} of the line"
            problems.append(Problem(message=message, hint="save the file as UTF-8", file=str(path), line=line))
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg} at column {error.colno}"
            problems.append(Problem(message=message, hint="one JSON object a line", file=str(path), line=line))
        except RecursionError:
            problems.append(Problem(message="nested too deeply", file=str(path), line=line))
        except ValueError as error:  # a RowError, or an integer of thousands of digits
            problems.append(Problem(message=str(error), hint=getattr(error, "hint", ""), file=str(path), line=line))
    return rows, problems


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f'data.path = "{path}" cannot be read: {error.strerror or error}'
        hint = "a relative path is looked up beside the TOML, then in the working directory"
        raise ConfigError(Problem(message=message, hint=hint, key="data.path")) from error
    return enumerate(content.split(b"\n"), 1)


def _object(text: str, answer_key: str) -> dict[str, Any]:
    """Return the object of a line, with an answer that is a number the way it is written."""
    row = json.loads(text, parse_constant=_no_constant)
    if not isinstance(row, dict):
        raise RowError(f"{shown(row)} is not an object", "one JSON object a line")
    answer = row.get(answer_key)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        row[answer_key] = json.loads(text, parse_int=str, parse_float=str)[answer_key]
    return row


def _no_constant(name: str) -> None:
    raise RowError(f"{name} is not a JSON number")


def _repeated_ids(tasks: list[Task], lines: list[int], path: Path) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for task, line in zip(tasks, lines, strict=True):
        if task.id in first:
            message = f'"id" {shown(task.id)} is also that of line {first[task.id]}'
            problems.append(Problem(message=message, hint="ids must be unique", file=str(path), line=line))
        first.setdefault(task.id, line)
    return problems


def _listed(problems: list[Problem], path: Path) -> list[Problem]:
    """Return the first twenty by line, and how many there are when there are more."""
    if len(problems) <= MAX_LISTED:
        return problems
    count = Problem(message=f"{len(problems)} rows are wrong; the first {MAX_LISTED} are listed", file=str(path))
    return [count, *sorted(problems, key=lambda problem: problem.line)[:MAX_LISTED]]
