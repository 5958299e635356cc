"""From the `[data]` section to the tasks of a run.

A source gives problems; here the config is put around them: `system_prompt` before, `instruction` after, and
`training.max_examples` of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from retrain import registry
from retrain.data.plugin import source_of
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.config.schema import Data, RunConfig
    from retrain.types import Message, Task


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """The tasks of a run as the model will see them, and the reward that their source suggests."""

    tasks: Sequence[Task]
    reward: str

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change with any id, prompt or answer, and with their order."""
        content = hashlib.sha256()
        for task in self.tasks:
            content.update(_content(task).encode() + b"\n")
        return content.hexdigest()[:16]


def load(config: RunConfig, places: Sequence[Path]) -> LoadedData:
    """Return the tasks that `config.data` names; `places` are where plugins and a relative path are looked up.

    `training.max_examples` keeps the examples whose content has the smallest SHA-256, in the order of the source: a
    fair choice from a sorted file, and the same for every seed, condition and order of the rows.

    Raises:
        ConfigError: the source is unknown, or what it holds is wrong, empty or not to be had.
    """
    section = replace(config.data, path=_located(config.data.path, places))
    found = registry.resolve("data", section.source, places=places)
    source = source_of(section, found)
    if not source.tasks:
        raise ConfigError(Problem(message=f'data.source = "{section.source}" has no examples', key="data.source"))
    _check_ids(section.source, source.tasks)
    instruction = source.instruction if section.instruction == "auto" else section.instruction
    chosen = _chosen(source.tasks, config.training.max_examples)
    return LoadedData(tasks=[_dressed(task, section, instruction) for task in chosen], reward=source.reward)


def _located(path: str, places: Sequence[Path]) -> str:
    """Return where a relative path is found, or the path itself when it is nowhere: its source says so."""
    return next((str(place / path) for place in places if path and (place / path).exists()), path)


def _check_ids(name: str, tasks: Sequence[Task]) -> None:
    seen = set()
    for task in tasks:
        if task.id in seen:
            message = f'data.source = "{name}": two examples have the id "{task.id}"'
            raise ConfigError(Problem(message=message, hint="ids must be unique", key="data.source"))
        seen.add(task.id)


def _content(task: Task) -> str:
    return json.dumps([task.id, list(map(dict, task.prompt)), task.answer], sort_keys=True)


def _chosen(tasks: Sequence[Task], limit: int) -> Sequence[Task]:
    if not 0 < limit < len(tasks):
        return tasks

    def rank(index: int) -> bytes:
        return hashlib.sha256(_content(replace(tasks[index], id="")).encode()).digest()

    return [tasks[index] for index in sorted(sorted(range(len(tasks)), key=rank)[:limit])]


def _dressed(task: Task, section: Data, instruction: str) -> Task:
    """Return the task with the system prompt before it and the instruction at the end of the user's last message."""
    messages: list[Message] = list(task.prompt)
    if instruction:
        messages[-1] = {"role": "user", "content": f"{messages[-1]['content']}\n{instruction}"}
    if section.system_prompt:
        if messages[0]["role"] == "system":
            message = f'data.system_prompt is set, but example "{task.id}" has a system message of its own'
            raise ConfigError(Problem(message=message, hint="drop one of them", key="data.system_prompt"))
        messages.insert(0, {"role": "system", "content": section.system_prompt})
    return replace(task, prompt=tuple(messages))
