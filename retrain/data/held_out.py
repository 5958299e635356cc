"""Cut a validation part from the training data: the same problems for every seed, order, condition and length of a run.

The rule: prompts are taken in the order of SHA-256("held out", prompt), each with every example that asks it, until
`eval.examples` examples are held out (0: no such bound), and never more than a tenth of the data. A prompt with more
examples than there is room left stays in training. So a question is either trained on or held out, never both; a
question's rank does not depend on what else is in the file; and a larger part contains a smaller one where no prompt
is repeated.

Prompts are equal when their messages are, but for white space. The system prompt and the instruction of the config are
not part of it: changing them changes no side.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Task

SHARE = 10  # one example in so many may be held out
LEAST = 2 * SHARE  # examples; of fewer not even two could be, and one has no standard error


def question_key(task: Task) -> str:
    """Return what is the same for two tasks that ask the same."""
    return json.dumps([[message["role"], " ".join(message["content"].split())] for message in task.prompt])


def cut(tasks: Sequence[Task], examples: int) -> tuple[list[Task], list[Task]]:
    """Return (training part, validation part), each in the order of the source. The latter is empty below `LEAST`."""
    most = len(tasks) // SHARE if len(tasks) >= LEAST else 0
    room = min(most, examples) if examples else most
    asking: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        asking[question_key(task)].append(index)
    held: set[int] = set()
    for question in sorted(asking, key=_rank):
        if len(asking[question]) <= room:
            held.update(asking[question])
            room -= len(asking[question])
        if not room:
            break
    training = [task for index, task in enumerate(tasks) if index not in held]
    return training, [tasks[index] for index in sorted(held)]


def _rank(question: str) -> bytes:
    return hashlib.sha256(f"held out\0{question}".encode(errors="surrogatepass")).digest()


def shared(tasks: Sequence[Task], training: Sequence[Task]) -> int:
    """Count the tasks whose question is also asked in `training`."""
    asked = {question_key(task) for task in training}
    return sum(question_key(task) in asked for task in tasks)
