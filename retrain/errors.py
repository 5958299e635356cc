"""The tree of errors a user can meet, and the one place that turns them into sentences.

    RetrainError                  shown without a traceback; `exit_code` ends the process
    ├── ConfigError        (2)    the user's input is wrong: files, keys, values, data rows, missing models or extras
    ├── RunError           (1)    a run started and could not go on: non-finite loss, failing rewards, a full disk
    ├── Stale              (1)    text that the program writes itself is not up to date
    └── Interrupted        (130)  SIGINT or SIGTERM

Everything else is a defect of ours and propagates with its traceback.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


COMMAND_LINE = "command line"  # begins `Problem.file` of what was typed: ``command line: --lr fast``


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, as facts; `str()` makes the text a user reads.

    message: what is wrong with which value, e.g. ``training.lr = "1e-5" is text, a number is needed``
    hint:    what to do or type, e.g. ``drop the quotes: lr = 1e-5``
    file, line: where it was written; line is 1-based. Of the command line: what was typed, see `COMMAND_LINE`
    key:     the dotted config key, where there is one
    topic:   the manual topic that explains it (``retrain man --topic TOPIC``)
    """

    message: str
    hint: str = ""
    file: str = ""
    line: int = 0
    key: str = ""
    topic: str = ""

    @property
    def where(self) -> str:
        """``file:line``, ``file``, or nothing."""
        return f"{self.file}:{self.line}" if self.file and self.line else self.file

    def document(self, code: str) -> dict[str, str | int]:
        """Return it for a program; `file` is a file there, and what was typed is part of the message."""
        typed = self.file.startswith(COMMAND_LINE)
        return {
            "code": code,
            "key": self.key,
            "file": "" if typed else self.file,
            "line": self.line,
            "message": f"{self.file}: {self.message}" if typed else self.message,
            "hint": self.hint,
        }

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        tail = [line for line in self.hint.splitlines() if line]
        if self.topic:
            tail.append(f"retrain man --topic {self.topic}")
        return "\n".join([head, *(f"  {line}" for line in tail)])


@dataclass(frozen=True, kw_only=True)
class Unused(Problem):
    """A key is set and can have no effect: wrong in a run, but not in what the conditions of a campaign share."""


class RetrainError(Exception):
    """Anything a user should read as a message rather than as a traceback."""

    exit_code = 1
    code = "error"

    def __init__(self, problems: str | Problem | Iterable[Problem], hint: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem(message=problems, hint=hint)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: list[Problem] = sorted(set(problems), key=lambda p: (p.file, p.line, p.key, p.message))
        super().__init__("\n".join(map(str, self.problems)))


class ConfigError(RetrainError):
    """The user's input is wrong; nothing was started and nothing was written."""

    exit_code = 2
    code = "config"


class RunError(RetrainError):
    """A run that had started could not go on."""

    exit_code = 1
    code = "run"


class Incomplete(RetrainError):  # noqa: N818  the runs that are done stand
    """A campaign has ended, and not all of its runs are done."""

    exit_code = 3
    code = "incomplete"


class Stale(RetrainError):  # noqa: N818  nothing is wrong but its age
    """Text that the program writes itself is not what it would write now."""

    exit_code = 1
    code = "stale"


class NotFinite(RunError):  # noqa: N818  it says what the numbers are
    """Weights that give no finite number any more."""


class Interrupted(RetrainError):  # noqa: N818  nothing went wrong
    """The run was asked to stop."""

    exit_code = 130
    code = "interrupted"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like `name`, or None when nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def unknown_name(
    *, kind: str, name: str, known: Sequence[str], file: str = "", line: int = 0, key: str = "", topic: str = ""
) -> Problem:
    """Describe a name that is in no table: the nearest valid one, then all of them."""
    near = nearest(name, known)
    label = f'{key} = "{name}"' if key else f'"{name}"'
    question = f'; did you mean "{near}"?' if near else ""
    return Problem(
        message=f"{label} is not a {kind}{question}",
        hint=", ".join(known),
        file=file,
        line=line,
        key=key,
        topic=topic,
    )
