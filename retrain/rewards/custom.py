r"""Rewards of your own.

    def score(response, reference):                       # or: async def
        return float("\\boxed" in response)

    [reward] type = "my_rewards:score"

A function gets the completion and the reference answer. Further parameters are filled by name: `prompt` with the text
of the user's last message, any other with that column of the example. It returns a number, True or False, None for
"unscorable", or a dict of named parts that holds the total under "reward". `reward.timeout` and `reward.workers` do not
apply: it runs in the training process.

A class with a method ``score(texts, tasks)`` is used as it is (`retrain.types.Reward`).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrain.errors import ConfigError, Problem, RunError
from retrain.types import Score, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONCURRENT = 64  # calls of an asynchronous function that are under way at once
KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

log = logging.getLogger("retrain")


class Function:
    """A plain function as a reward. An exception makes its row unscorable; the first one is logged with its traceback.

    Raises:
        ConfigError: the function cannot take a completion and a reference.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())
        leading = [p for p in parameters if p.kind in KINDS or p.kind is inspect.Parameter.VAR_POSITIONAL]
        if len(leading) < 2 and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in leading):
            message = f'reward "{name}" takes {len(leading)} positional parameters, it is called with two'
            raise ConfigError(Problem(message=message, hint="def score(response, reference): …", key="reward.type"))
        rest = [p for p in parameters if p not in leading[:2] and p.kind is not inspect.Parameter.VAR_POSITIONAL]
        self._takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in rest)
        self._named = [p.name for p in rest if p.kind is not inspect.Parameter.VAR_KEYWORD]
        self._waits = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._logged = False

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]:
        """Score row after row; rows of an asynchronous function together."""
        pairs = list(zip(texts, tasks, strict=True))
        if self._waits:
            returned = asyncio.run(self._gathered(pairs))
        else:
            returned = [self._called(text, task) for text, task in pairs]
        return [self._score(value, task) for value, task in zip(returned, tasks, strict=True)]

    def close(self) -> None:
        """Do nothing: there is nothing to end."""

    def _called(self, text: str, task: Task) -> Any:
        try:
            return self._function(text, task.answer, **self._columns(task))
        except Exception as error:  # noqa: BLE001  a bad rollout is data: its row is unscorable
            return error

    async def _gathered(self, pairs: Sequence[tuple[str, Task]]) -> list[Any]:
        limit = asyncio.Semaphore(CONCURRENT)

        async def called(text: str, task: Task) -> Any:
            async with limit:
                return await self._function(text, task.answer, **self._columns(task))

        return await asyncio.gather(*(called(*pair) for pair in pairs), return_exceptions=True)

    def _columns(self, task: Task) -> dict[str, Any]:
        """Return what the function takes by name; a column that is missing is left to the function's own default."""
        known = {**task.info, "prompt": task.prompt[-1]["content"]}
        return known if self._takes_all else {name: known[name] for name in self._named if name in known}

    def _score(self, returned: Any, task: Task) -> Score:
        if isinstance(returned, Exception):
            if not self._logged:
                log.error(
                    'reward "%s" failed on "%s"; further failures are counted', self._name, task.id, exc_info=returned
                )
                self._logged = True
            return Score(value=None, error=f"{type(returned).__name__}: {returned}")
        if not isinstance(returned, Mapping):
            return self._checked(returned, {}, task)
        if "reward" not in returned:
            raise self._wrong(f'a dict without "reward", but with {", ".join(map(repr, returned))}', task)
        parts = {str(name): self._number(part, task) for name, part in returned.items() if name != "reward"}
        return self._checked(returned["reward"], parts, task)

    def _checked(self, returned: Any, parts: dict[str, float | None], task: Task) -> Score:
        value = self._number(returned, task)
        known = {name: part for name, part in parts.items() if part is not None and math.isfinite(part)}
        if value is not None and not math.isfinite(value):
            return Score(value=None, parts=known, error=f"the reward is {value}")
        return Score(value=value, parts=known, error="" if value is not None else "the reward is None")

    def _number(self, returned: Any, task: Task) -> float | None:
        value = returned.item() if getattr(returned, "shape", None) == () else returned  # a scalar of numpy or torch
        if value is None or isinstance(value, numbers.Real):
            return None if value is None else float(value)
        raise self._wrong(repr(value)[:60], task)

    def _wrong(self, what: str, task: Task) -> RunError:
        hint = 'it has to be a number, True, False, None, or a dict of numbers with "reward"'
        return RunError(f'reward "{self._name}" returned {what} for "{task.id}"', hint)


class Plugin:
    """An object with a method `score` of its own, with what it returns checked."""

    def __init__(self, name: str, reward: Any) -> None:
        self._name = name
        self._reward = reward

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]:
        """Return its scores, a value that is not finite as unscorable.

        Raises:
            RunError: it returned something else than one Score for each completion.
        """
        scores = self._reward.score(texts, tasks)
        if not isinstance(scores, list) or len(scores) != len(texts) or not all(isinstance(s, Score) for s in scores):
            what = f"{len(scores)} values" if isinstance(scores, list) else repr(scores)[:60]
            hint = "score has to return a list of one retrain.types.Score for each completion"
            raise RunError(f'reward "{self._name}" returned {what} for {len(texts)} completions', hint)
        return [
            score if _finite(score) else Score(value=None, error=f"the reward is {score.value}") for score in scores
        ]

    def close(self) -> None:
        """Close the object where it can be closed."""
        close = getattr(self._reward, "close", None)
        if close is not None:
            close()


def _finite(score: Score) -> bool:
    return score.value is None or math.isfinite(score.value)
