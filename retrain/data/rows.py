"""From one row of a data set to a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from retrain.errors import Problem
from retrain.types import Message, Task


class RowError(ValueError):
    """A row that makes no task; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def question(text: str) -> tuple[Message, ...]:
    """Return a prompt of one user message."""
    return ({"role": "user", "content": text},)


def task_of(row: Mapping[str, Any], *, task_id: str, prompt_key: str, answer_key: str) -> Task:
    """Return the task of a row; its other columns become `Task.info`.

    The prompt is text or a list of chat messages that ends with the user's; the answer is text or a number.

    Raises:
        RowError: a column is missing, empty or of the wrong type.
    """
    for key, name in ((prompt_key, "prompt_key"), (answer_key, "answer_key")):
        if row.get(key) is None:
            raise RowError(f'no "{key}"', f"its columns: {', '.join(map(str, row))} (data.{name} names another)")
    answer = row[answer_key]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise RowError(f'"{answer_key}" is {shown(answer)}, text or a number is needed')
    return Task(
        id=task_id,
        prompt=messages_of(row[prompt_key], prompt_key),
        answer=str(answer),
        info={key: value for key, value in row.items() if key not in {prompt_key, answer_key}},
    )


def messages_of(value: object, key: str) -> tuple[Message, ...]:
    """Return a prompt as chat messages.

    Raises:
        RowError: neither text nor messages, or nothing to answer.
    """
    if isinstance(value, str):
        if not value.strip():
            raise RowError(f'"{key}" is empty')
        return question(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise RowError(f'"{key}" is {shown(value)}, text or a list of chat messages is needed')
    for number, message in enumerate(value, 1):
        good = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        if not good:
            form = '{"role": "user", "content": "…"}'
            raise RowError(f'"{key}": message {number} is {shown(message)}', f"a message is {form}")
    if not value or value[-1]["role"] != "user" or not value[-1]["content"].strip():
        raise RowError(f'"{key}" does not end with a message of the user', "its last message is what is answered")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def absent_everywhere(rows: Sequence[Mapping[str, Any]], *, prompt_key: str, answer_key: str) -> list[Problem]:
    """Return a problem for each column that no row has: one wrong name, not as many as there are rows."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return [
        Problem(
            message=f'no row has "{key}"; the columns are {", ".join(columns)}',
            hint=f"name the right one with data.{name}",
            key=f"data.{name}",
        )
        for key, name in ((prompt_key, "prompt_key"), (answer_key, "answer_key"))
        if rows and all(row.get(key) is None for row in rows)
    ]


def id_of(row: Mapping[str, Any], default: str) -> str:
    """Return the row's own "id" where that is text or a whole number, else `default`."""
    own = row.get("id")
    return str(own) if isinstance(own, str | int) and not isinstance(own, bool) and own != "" else default


def shown(value: object) -> str:
    """Return a value as a user would write it, cut to a line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "…"
