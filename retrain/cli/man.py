"""`retrain man`: the manual, topic by topic."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from retrain.cli import output
from retrain.cli.flags import parse
from retrain.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDEST = 100  # columns; longer lines are hard to follow


def main(arguments: Sequence[str]) -> int:
    """Show one topic, or list them.

    Raises:
        ConfigError: an unknown topic, more than one, or a topic together with --list-topics.
    """
    from retrain import manual

    flags, positional = parse("man", arguments)
    asked = [*positional, *([flags["--topic"]] if "--topic" in flags else [])]
    if len(asked) > 1:
        raise ConfigError(f"retrain man shows one topic, got {len(asked)}: {' '.join(asked)}", "retrain man --help")
    if asked and "--list-topics" in flags:
        raise ConfigError(f"--list-topics lists them all; leave {asked[0]} out")
    known = manual.topics()
    if not asked:
        width = max(map(len, known))
        print("\n".join(f"{name:<{width}}  {about}" for name, about in known.items()))
        output.say("\nretrain man TOPIC shows one")
        return 0
    if asked[0] not in known:
        raise ConfigError(unknown_name(kind="topic of the manual", name=asked[0], known=list(known)))
    show(manual.read(asked[0]))
    return 0


def show(text: str) -> None:
    """Lay Markdown out on a terminal; anything else gets it as it is written."""
    if not sys.stdout.isatty():
        print(text.rstrip())
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text, hyperlinks=False), width=min(console.width, WIDEST))
