"""What a source returned, checked: the built-in ones return a `Source`, your own may be simpler.

def rows(data):                                    # data: the [data] section
    yield {"prompt": "17+25=", "answer": "42"}     # or retrain.types.Task; other keys are kept for rewards

[data] source = "my_rows:rows"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from retrain.data.rows import RowError, id_of, messages_of, shown, task_of
from retrain.data.source import Source
from retrain.errors import ConfigError, Problem, RetrainError
from retrain.registry import is_import_path
from retrain.types import Task

if TYPE_CHECKING:
    from retrain.config.schema import Data


def source_of(section: Data, found: Any) -> Source:
    """Call a source with the `[data]` section and return what it gives as a `Source`.

    Raises:
        ConfigError: what was returned makes no tasks, or a plugin failed; the message names it.
    """
    if not callable(found):
        raise _error(section, f"is {shown(found)}, not a function", "a function of the [data] section is needed")
    try:
        given = found(section)
        if isinstance(given, Source):
            return given
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            raise _error(
                section, f"returned {shown(given)}", "an iterable of Task, or of tables with prompt and answer"
            )
        return Source(tasks=[_task(section, number, item) for number, item in enumerate(given)])
    except RetrainError:
        raise
    except Exception as error:
        if not is_import_path(section.source):
            raise  # a defect of ours keeps its traceback
        raise _error(section, f"failed: {type(error).__name__}: {error}") from error


def _task(section: Data, number: int, item: object) -> Task:
    """Return what a plugin gave for example `number`, checked."""
    prompt_key, answer_key = section.prompt_key or "prompt", section.answer_key or "answer"
    try:
        if isinstance(item, Mapping):
            return task_of(item, task_id=id_of(item, str(number)), prompt_key=prompt_key, answer_key=answer_key)
        if isinstance(item, Task):
            messages_of(list(item.prompt), "prompt")
            return item
    except RowError as error:
        raise _error(section, f"gave example {number}: {error}", error.hint) from error
    raise _error(
        section, f"gave example {number}: {shown(item)}", "a Task, or a table with prompt and answer, is needed"
    )


def _error(section: Data, what: str, hint: str = "") -> ConfigError:
    return ConfigError(Problem(message=f'data.source = "{section.source}" {what}', hint=hint, key="data.source"))
