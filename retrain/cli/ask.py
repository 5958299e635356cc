"""Ask at a terminal: on stderr, for stdout is data. Where nobody can answer, nothing is ever asked."""

from __future__ import annotations

import sys


class NoAnswer(Exception):  # noqa: N818  nothing went wrong
    """The answers have ended: Ctrl-D, or the terminal is gone."""


def can_ask() -> bool:
    """Whether somebody reads questions and can answer them."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def line(prompt: str) -> str:
    """Return what was typed in answer to a prompt, without the blanks around it.

    Raises:
        NoAnswer: there is none, and there will be none.
    """
    print(prompt, end="", file=sys.stderr, flush=True)
    try:
        typed = sys.stdin.readline()
    except OSError:  # the terminal is gone
        typed = ""
    if not typed:
        print(file=sys.stderr)
        raise NoAnswer
    return typed.strip()


def agreed(question: str) -> bool:
    """Return whether a question was answered with yes, which an empty line is as well.

    Raises:
        NoAnswer: as `line`.
    """
    while (answer := line(f"{question} [Y/n] ").lower()) not in ("", "y", "yes", "n", "no"):
        print(f'"{answer}" is neither yes nor no', file=sys.stderr)
    return answer in ("", "y", "yes")
