r"""Math: the completion's answer is mathematically equal to the reference.

The answer is what the last ``\boxed{}`` holds. A completion without a box is searched by math-verify for what looks
like a final answer ("the answer is …", formulas, numbers). The reference is the content of its last box, or all of it,
read as LaTeX or a number. Equality is that of math-verify (https://github.com/huggingface/Math-Verify): 1/2 equals 0.5
and ``\frac{1}{2}``, and sets do not care for order.

Parsing can hang on a hostile expression (``9^{9^{9^9}}``), inside C code where no signal handler of Python's runs. So
it happens in worker processes, which are killed at the deadline (`retrain.rewards.pool`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import retrain
from retrain.errors import ConfigError, Problem
from retrain.rewards.pool import Pool
from retrain.types import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.config.schema import Reward as Section
    from retrain.types import Task

MAX_WORKERS = 8
START = "import sys; sys.path.append(sys.argv[1]); from retrain.rewards.math_worker import main; main(*sys.argv[2:])"
"""Not `-m`: retrain need not be installed, and no module beside the TOML may take the place of one it imports."""


class Math:
    """1 when answer and reference are equal, 0 when not; None when the reference cannot be read or time ran out.

    `reward.timeout` is the time one completion may take; `reward.workers` how many processes score (0: one per core
    this process may use, at most eight). They start with the first completions, and end with `close` or this process.

    Raises:
        ConfigError: math-verify is not installed.
    """

    def __init__(self, section: Section) -> None:
        if importlib.util.find_spec("math_verify") is None:
            message = "the reward math needs the package math-verify"
            raise ConfigError(Problem(message=message, hint='pip install "retrain[local]"', key="reward.type"))
        command = [sys.executable, "-P", "-c", START, str(Path(retrain.__file__).parent.parent)]
        self._pool = Pool(command, workers=section.workers or min(MAX_WORKERS, _num_cores()), timeout=section.timeout)

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> list[Score]:
        pairs = [(text, task.answer) for text, task in zip(texts, tasks, strict=True)]
        distinct = list(dict.fromkeys(pairs))
        scores = dict(zip(distinct, map(_score, self._pool.run(distinct)), strict=True))
        return [scores[pair] for pair in pairs]

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def _num_cores() -> int:
    """Return how many cores this process may use; macOS cannot tell them from those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _score(answer: object) -> Score:
    """Return the score for what a worker sent: a number, or why there is none."""
    return Score(value=answer) if isinstance(answer, float) else Score(value=None, error=str(answer))
