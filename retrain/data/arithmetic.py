"""Generated sums: no download, the same problems for every seed and condition.

    [data]
    source = "arithmetic"
    name = "+-*:1-3"        # operations, then how many digits an operand has; empty: "+:2", two-digit additions

The prompt is the sum and nothing else (``17+25=``), the answer its value (``42``). Every combination of an operation
and two digit counts is a *cell*; problems are taken from all cells in turn, so that small operands are as frequent as
large ones. At most 4096 problems, fewer where fewer exist. Subtraction puts the larger operand first.

`data.split` is "train" or "test". A problem's side is decided by a hash of its operation and operands, an eighth goes
to the test split, and ``17+25`` and ``25+17`` are always on the same side.
"""

from __future__ import annotations

import hashlib
import re
from itertools import cycle, islice, product
from typing import TYPE_CHECKING

from retrain.data.rows import question
from retrain.data.source import Source, unused
from retrain.errors import ConfigError, Problem
from retrain.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.config.schema import Data

MAX_TASKS = 4096
MAX_DIGITS = 12
TEST_SHARE = 8  # one problem in so many belongs to the test split
ENUMERABLE = 10_000  # a cell of up to so many problems is listed whole; a larger one is drawn from

RECIPE = re.compile(r"(?P<operations>[-+*]+)(?::(?P<low>\d{1,2})(?:-(?P<high>\d{1,2}))?)?")


def load(section: Data) -> Source:
    """Return the sums of the recipe `data.name`, in a fixed order.

    Raises:
        ConfigError: the recipe or the split is not one.
    """
    if problems := _problems(section):
        raise ConfigError(problems)
    wanted = section.split == "test"
    streams = [(s for s in _sums(*cell) if _is_test(*s) == wanted) for cell in _cells(section.name)]
    tasks = [
        Task(id=f"arithmetic-{a}{op}{b}", prompt=question(f"{a}{op}{b}="), answer=str(value(a, op, b)))
        for a, op, b in islice(_in_turn(streams), MAX_TASKS)
    ]
    return Source(tasks=tasks, reward="match", instruction="")


def value(a: int, op: str, b: int) -> int:
    """Return what ``a op b`` is."""
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def _problems(section: Data) -> list[Problem]:
    problems = unused(section, "path", "prompt_key", "answer_key")
    if section.split not in {"train", "test"}:
        message = f'data.split = "{section.split}" is not a split of arithmetic'
        problems.append(Problem(message=message, hint="train, test", key="data.split"))
    if not _cells(section.name):
        message = f'data.name = "{section.name}" is not a recipe for arithmetic'
        hint = f'operations, then digits (1 to {MAX_DIGITS}): "+:2" is the default, "+-*:1-3", "*:1"'
        problems.append(Problem(message=message, hint=hint, key="data.name"))
    return problems


def _cells(recipe: str) -> list[tuple[str, int, int]]:
    """Return the (operation, digits, digits) of a recipe; none when it is not one."""
    found = RECIPE.fullmatch(recipe or "+:2")
    if found is None:
        return []
    low = int(found["low"] or 2)
    high = int(found["high"] or low)
    if not 1 <= low <= high <= MAX_DIGITS:
        return []
    digits = range(low, high + 1)
    return list(product(dict.fromkeys(found["operations"]), digits, digits))


def _number(*words: object) -> int:
    """Return a number that is a function of the words alone, on every machine and in every version of Python."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:16])


def _is_test(a: int, op: str, b: int) -> bool:
    return _number("split", op, *sorted((a, b))) % TEST_SHARE == 0


def _sums(op: str, left: int, right: int) -> Iterator[tuple[int, str, int]]:
    """Yield the distinct sums of a cell in a pseudo-random order that only the cell decides."""
    first, second = _operands(left), _operands(right)
    size = len(first) * len(second)
    if size <= ENUMERABLE:
        numbers = sorted(range(size), key=lambda i: _number(op, left, right, i))
    else:
        numbers = (_number(op, left, right, i) % size for i in range(size))
    seen = set()
    for number in numbers:
        a, b = first[number // len(second)], second[number % len(second)]
        if op == "-" and a < b:
            a, b = b, a
        if (a, b) not in seen:
            seen.add((a, b))
            yield a, op, b


def _operands(digits: int) -> range:
    return range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _in_turn(streams: Sequence[Iterator[tuple[int, str, int]]]) -> Iterator[tuple[int, str, int]]:
    """Yield from each stream in turn until all are empty, and nothing twice (17-4 is in two cells)."""
    seen = set()
    ended = set()
    for index, stream in cycle(enumerate(streams)):
        for item in stream:
            if item not in seen:
                seen.add(item)
                yield item
                break
        else:
            ended.add(index)
            if len(ended) == len(streams):
                return
