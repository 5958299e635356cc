"""The manual on a terminal: laid out to its width, through a pager where it is taller than the screen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from retrain.cli.output import WIDEST
from retrain.manual.marks import without_marks
from retrain.manual.search import stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType


def show_topic(text: str, *, paged: bool) -> None:
    """Lay a topic out."""
    show([Markdown(without_marks(text), hyperlinks=False)], paged=paged)


def show_hits(hits: Sequence[Sequence[str]], words: Sequence[str], *, paged: bool) -> None:
    """Lay out the lines of each hit, with the words that were looked for in bold."""
    asked = "|".join(re.escape(stem(word)) for word in words)
    parts = []
    for head, *indented in hits:
        for line in (head, *indented):
            text = Text(line.strip())
            text.highlight_regex(rf"(?i)(?<![^\W_])(?:{asked})[^\W_]*", "bold yellow")
            parts.append(Padding(text, (0, 0, 0, 0 if line == head else 4)))
        parts.append(Text())
    show(parts[:-1], paged=paged)


def show(parts: Sequence[RenderableType], *, paged: bool) -> None:
    """Print something to the terminal's width; more than a screenful goes through a pager, where there is one."""
    console = Console()
    with console.capture() as captured:
        for part in parts:
            console.print(part, width=min(console.width, WIDEST))
    laid_out = captured.get()
    command = pager() if paged and laid_out.count("\n") >= console.height else []
    if not command or not page(laid_out, command):
        print(laid_out, end="")


def pager() -> list[str]:
    """Return the pager that the user wants, as a command; empty: none."""
    for name in ("RETRAIN_PAGER", "MANPAGER", "PAGER"):
        if name in os.environ:
            wanted = shlex.split(os.environ[name])
            return [] if wanted == ["cat"] else wanted
    return ["less", "-R"] if shutil.which("less") else []


def page(text: str, command: list[str]) -> bool:
    """Show a text in a pager; leaving it early is fine. False: it cannot be started."""
    environment = {"LESS": "-R", **os.environ}  # less shows colours only when told to
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the pager's
    try:
        subprocess.run(
            command, input=text, encoding=sys.stdout.encoding, errors="replace", env=environment, check=False
        )
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return True
