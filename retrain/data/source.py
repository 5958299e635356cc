"""What a data source gives: tasks, and what it wants unless the config says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrain.config.schema import KEYS, Data
from retrain.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Task

NOT_OF_THE_HUB = ("arithmetic", "jsonl")
"""Built-in sources that download nothing."""

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""The default of `data.instruction`: the built-in rewards read the last box."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tasks of a source, before the config's system prompt and instruction are put around them.

    reward:      used when `reward.type` is empty
    instruction: used when `data.instruction` is "auto"; empty: none
    """

    tasks: Sequence[Task]
    reward: str = "math"
    instruction: str = BOXED


def unused(section: Data, *names: str) -> list[Problem]:
    """Return a problem for each of these `[data]` keys that is set, though the source cannot honour it."""
    problems = []
    for name in names:
        value, default = getattr(section, name), KEYS[f"data.{name}"].default
        if value != default:
            message = f'data.{name} = "{value}" means nothing for data.source = "{section.source}"'
            problems.append(Problem(message=message, hint=f"leave {name} out", key=f"data.{name}"))
    return problems
