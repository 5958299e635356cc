"""What a check says, and how one is run."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from retrain.errors import RetrainError
from retrain.events import Warned
from retrain.logs import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from retrain.errors import Problem
    from retrain.events import Event

T = TypeVar("T")

VERDICTS = ("skipped", "ok", "warn", "fail")
"""From nothing to say to what stops a run."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check found; `fix` is the one thing to do about it, empty where there is nothing to do."""

    verdict: str
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding(Found):
    """What was found, by whom and how long it took. condition: the campaign's condition that it is about; "": all."""

    name: str
    family: str
    condition: str
    seconds: float


@dataclass(frozen=True)
class Check(Generic[T]):
    """One line of the table: a name, and the function that looks at a machine or at a config on it."""

    name: str
    look: Callable[[T], Found | Sequence[Found]]


class NotKnownError(Exception):
    """A check cannot say anything, because what it looks at could not be had; another check says why."""


def ok(found: str) -> Found:
    return Found(verdict="ok", found=found)


def warn(found: str, fix: str) -> Found:
    return Found(verdict="warn", found=found, fix=fix)


def fail(found: str, fix: str) -> Found:
    return Found(verdict="fail", found=found, fix=fix)


def skipped(found: str, fix: str = "") -> Found:
    return Found(verdict="skipped", found=found, fix=fix)


def run_check(check: Check[T], subject: T, *, family: str, condition: str = "") -> Iterator[Finding]:
    """Run one check. What it raises about the user's input or the machine is what it found; our defects propagate.

    What the program logs as a warning meanwhile is a finding too.
    """
    logged: list[Found] = []

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            logged.append(warn(event.message, ""))

    started = time.perf_counter()
    try:
        with Log(hear):
            answer = check.look(subject)
        found = [answer] if isinstance(answer, Found) else list(answer)
    except NotKnownError as error:
        found = [skipped(str(error))]
    except RetrainError as error:
        found = [of_problem(problem) for problem in error.problems]
    except (OSError, subprocess.SubprocessError) as error:
        found = [fail(f"cannot be checked: {type(error).__name__}: {error}", "")]
    seconds = round(time.perf_counter() - started, 3)
    for each in (*found, *logged):
        yield Finding(**vars(each), name=check.name, family=family, condition=condition, seconds=seconds)


def of_problem(problem: Problem) -> Found:
    """Return a problem as what a check found."""
    where = f"{problem.where}: " if problem.where else ""
    return fail(f"{where}{problem.message}", problem.hint)


def worst(findings: Sequence[Finding]) -> Finding:
    """Return the first finding of the worst verdict."""
    return max(findings, key=lambda finding: VERDICTS.index(finding.verdict))  # max keeps the first of equals


def first_to_do(findings: Sequence[Finding]) -> str:
    """Return the one thing to do first: the fix of the worst finding, or what is wrong where that says it all."""
    first = worst(findings)
    if first.verdict not in ("fail", "warn"):
        return ""
    return f"{first.name}: {(first.fix or first.found).splitlines()[0]}"
