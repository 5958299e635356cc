"""From the `[data]` section to the tasks of a run.

A source gives problems; here a part of them is held out (`held_out`), `training.max_examples` of the others are chosen,
and the config is put around them all: `system_prompt` before, `instruction` after.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from retrain import registry
from retrain.config.rules import DATA_KEYS
from retrain.config.schema import Data
from retrain.data import held_out
from retrain.data.plugin import source_of
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.config.schema import RunConfig
    from retrain.data.source import Source
    from retrain.types import Message, Task


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """The tasks of a run as the model will see them, and the reward that their source suggests."""

    tasks: Sequence[Task]  # trained on
    reward: str
    held_out: Sequence[Task] = ()  # what `[eval]` measures the run by
    test: Sequence[Task] = ()  # the source's own test split, for `eval.final_test`

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change with any id, prompt or answer that is trained on, and with their order."""
        content = hashlib.sha256()
        for task in self.tasks:
            content.update(_content(task).encode() + b"\n")
        return content.hexdigest()[:16]


def load(config: RunConfig, places: Sequence[Path]) -> LoadedData:
    """Return the tasks that `config.data` names; `places` are where plugins and a relative path are looked up.

    With evaluations, and no source of their own, a part is held out first. Of the rest, `training.max_examples` keeps
    the examples whose content has the smallest SHA-256, in the order of the source: a fair choice from a sorted file,
    and the same for every seed, condition and order of the rows.

    Raises:
        ConfigError: a source is unknown, or what it holds is wrong, empty or not to be had.
    """
    section = replace(config.data, path=_located(config.data.path, places))
    source = _read(section, places)
    training, evaluated = _divided(source.tasks, config, places)
    test = _test_split(section, places) if config.eval.final_test else ()
    _warn_of_shared("problems of the test split", test, training)
    instruction = source.instruction if section.instruction == "auto" else section.instruction

    def dressed(tasks: Sequence[Task]) -> list[Task]:
        return [_dressed(task, section, instruction) for task in tasks]

    return LoadedData(
        tasks=dressed(_chosen(training, config.training.max_examples)),
        reward=source.reward,
        held_out=dressed(evaluated),
        test=dressed(test),
    )


def _read(section: Data, places: Sequence[Path]) -> Source:
    found = registry.resolve("data", section.source, places=places)
    source = source_of(section, found)
    if not source.tasks:
        raise ConfigError(Problem(message=f'data.source = "{section.source}" has no examples', key="data.source"))
    _check_ids(section.source, source.tasks)
    return source


def _divided(tasks: Sequence[Task], config: RunConfig, places: Sequence[Path]) -> tuple[Sequence[Task], Sequence[Task]]:
    """Return (what may be trained on, what is held out)."""
    wanted = config.eval
    if not wanted.every:
        return tasks, ()
    if wanted.source:
        evaluated = _chosen(_of_eval(config, places).tasks, wanted.examples)
        _warn_of_shared("held-out problems", evaluated, tasks)
        return tasks, evaluated
    training, evaluated = held_out.cut(tasks, wanted.examples)
    if not evaluated:
        log.warning(
            "no held-out score: %d examples are too few to hold a tenth of them out. Name another source in [eval], or "
            "set eval.every = 0",
            len(tasks),
        )
    return training, evaluated


def _warn_of_shared(what: str, tasks: Sequence[Task], training: Sequence[Task]) -> None:
    if common := held_out.shared(tasks, training):
        log.warning("%d of the %d %s are also in the training data", common, len(tasks), what)


def _of_eval(config: RunConfig, places: Sequence[Path]) -> Source:
    """Return the source that `[eval]` names: its own path, name and split, the columns of `[data]` where it reads them.

    An empty split means the test split, where the source has any. A source of your own gets it as `data.split`.
    """
    wanted, keys = config.eval, DATA_KEYS.get(config.eval.source)
    columns = config.data if keys is None or "prompt_key" in keys else Data()
    section = replace(
        config.data,
        source=wanted.source,
        path=_located(wanted.path, places),
        name=wanted.name,
        split=wanted.split or ("test" if keys is None or "split" in keys else Data().split),
        prompt_key=columns.prompt_key,
        answer_key=columns.answer_key,
    )
    try:
        return _read(section, places)
    except ConfigError as error:
        raise ConfigError(_renamed(problem) for problem in error.problems) from error


def _renamed(problem: Problem) -> Problem:
    """Return a problem of a source with the keys of `[eval]`."""
    message, hint, key = (
        re.sub(r"\bdata\.(source|path|name|split)\b", r"eval.\1", text)
        for text in (problem.message, problem.hint, problem.key)
    )
    return replace(problem, message=message, hint=hint, key=key)


def _test_split(section: Data, places: Sequence[Path]) -> Sequence[Task]:
    """Return the test split of the training source, all of it.

    Raises:
        ConfigError: it has none.
    """
    try:
        return _read(replace(section, split="test"), places).tasks
    except ConfigError as error:
        raise ConfigError(
            replace(problem, message=f"eval.final_test = true: {problem.message}", key="eval.final_test")
            for problem in error.problems
        ) from error


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
