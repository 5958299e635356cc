"""`retrain completion`: the script that a shell reads once, and the answer that it asks for at each TAB."""

from __future__ import annotations

import os
import sys
from importlib import resources
from typing import TYPE_CHECKING

from retrain.cli.commands import COMMANDS
from retrain.cli.flags import parse
from retrain.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

SHELLS = {
    "bash": 'eval "$(retrain completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(retrain completion zsh)"    # in ~/.zshrc',
    "fish": "retrain completion fish > ~/.config/fish/completions/retrain.fish",
}
"""Shell → how its script is put to use; the text is in completion_scripts/retrain.SHELL."""


def main(arguments: Sequence[str]) -> int:
    """Print a shell's script; with --words, what may stand in place of the last word of the line on stdin.

    Raises:
        ConfigError: no shell, an unknown one, or more than one.
    """
    flags, positional = parse("completion", arguments)
    if len(positional) != 1:
        what = f"got {len(positional)}" if positional else "none was named"
        raise ConfigError(f"retrain completion takes one shell, {what}", COMMANDS["completion"].usage)
    shell = positional[0]
    if shell not in SHELLS:
        raise ConfigError(unknown_name(kind="shell with a completion script", name=shell, known=list(SHELLS)))
    if "--words" in flags:
        print("\n".join(answer(shell, sys.stdin.read())))
        return 0
    print(resources.files("retrain.cli").joinpath("completion_scripts", f"retrain.{shell}").read_text("utf-8"), end="")
    if sys.stdout.isatty():
        from retrain.cli import output

        output.say(f"\nto use it:\n  {SHELLS[shell]}\nmore: retrain completion --help")
    return 0


def answer(shell: str, line: str) -> list[str]:
    """Return what may stand in place of a line's last word, a candidate a line, as the shell's script reads it."""
    from retrain.cli import candidates, shell_line

    before, word = shell_line.arguments(line)
    found = candidates.after(before, word.text)
    if shell == "zsh":
        return shell_line.for_zsh(found, word)
    if shell == "fish":
        return shell_line.for_fish(found)
    while word.quote and len(found) == 1 and found[0].is_open:  # bash would close the quote, so go on until it may
        further = candidates.after(before, found[0].text)
        if not further:
            break
        found = further
    return shell_line.for_bash(found, word, os.environ.get("COMP_WORDBREAKS", shell_line.WORD_BREAKS))
