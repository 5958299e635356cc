"""One scoring process of the reward math (`retrain.rewards.math` starts it, `retrain.rewards.pool` talks to it).

Reads one job a line from standard input, ``[completion, reference]`` in JSON, and answers each with one line: a number,
or text that says why there is none. It imports math-verify and nothing else that is heavy.

It ends by itself when its parent does: at the end of its input, when it has another parent, and, should it hang in a
parse at that time, by an alarm whose default action needs no Python to run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import select
import signal
import sys
import warnings
from functools import lru_cache
from typing import Any

from retrain.rewards.boxed import last_boxed
from retrain.watchdog import answer_for_stacks

ALARM_GRACE_SECONDS = 1.0  # after the deadline that the parent keeps
PARENT_POLL_SECONDS = 1.0
MEMORY_BYTES = 4 << 30  # of address space: a tower of powers must not take the machine's memory before its deadline
SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]([-+]?\d+)")


def main(timeout: str, parent: str) -> None:
    """Serve until the process `parent` is gone; `timeout` is in seconds."""
    limit = float(timeout) + ALARM_GRACE_SECONDS
    for number in (signal.SIGINT, signal.SIGUSR2):  # they may reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    answer_for_stacks()  # on SIGUSR1, which a batch system may send to the whole group too
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, os.fdopen(0, "rb", buffering=0) as jobs:
        os.dup2(2, 1)  # whatever a library prints must not end up among the answers
        _send(answers, _start())
        pending = b""
        while (line_and_rest := _next_line(jobs, pending, int(parent))) is not None:
            line, pending = line_and_rest
            signal.setitimer(signal.ITIMER_REAL, limit)
            answer = _safely(*json.loads(line))
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(answers, answer)


def _limit_memory() -> None:
    if sys.platform == "linux":  # macOS has the limit and does not let it be set
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(most, MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def verdict(text: str, reference: str) -> float | str:
    """Return 1.0 or 0.0, or why the completion cannot be scored."""
    import math_verify

    wanted = last_boxed(reference) or reference
    if not wanted.strip():
        return "the reference is empty"
    answer = last_boxed(text)
    if answer is not None and answer.strip() == wanted.strip():
        return 1.0
    expected = _expression(wanted)
    if not expected:
        return f"the reference {wanted!r} cannot be read"
    given = _expression(answer) if answer is not None else math_verify.parse(text, parsing_timeout=0)
    return float(math_verify.verify(list(expected), given, timeout_seconds=0))


@lru_cache(maxsize=4096)
def _expression(text: str) -> list[Any]:
    """Return math-verify's readings of an expression; none when it is not one."""
    import math_verify

    plain = re.sub(r"(?<!\\)\$", "", text).strip()
    if number := SCIENTIFIC.fullmatch(plain):
        plain = f"{number[1]} \\cdot 10^{{{number[2]}}}"
    return math_verify.parse(f"${plain}$", parsing_timeout=0)


def _start() -> str:
    """Import what takes time before the first deadline runs; return "ready", or what is wrong."""
    answer = _safely("\\boxed{1}", "2")
    return answer if isinstance(answer, str) else "ready"


def _safely(text: str, reference: str) -> float | str:
    try:
        return verdict(text, reference)
    except Exception as error:  # noqa: BLE001  a bad rollout is data; the parent shows what it was
        return f"{type(error).__name__}: {error}"


def _send(answers: Any, answer: float | str) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _next_line(jobs: Any, pending: bytes, parent: int) -> tuple[bytes, bytes] | None:
    """Return the next line of the input and what came after it; None when the parent is gone."""
    while b"\n" not in pending:
        readable, _, _ = select.select([jobs], [], [], PARENT_POLL_SECONDS)
        if not readable:
            if os.getppid() != parent:
                return None
            continue
        chunk = jobs.read(1 << 16)
        if not chunk:
            return None
        pending += chunk
    line, _, rest = pending.partition(b"\n")
    return line, rest
