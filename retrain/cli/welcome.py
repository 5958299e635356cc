"""`retrain` alone: at a terminal what can be typed here, or a config to begin with; anywhere else the help."""

from __future__ import annotations

import sys
from pathlib import Path

from retrain.cli import ask
from retrain.cli.help import general_help

FILE = Path("retrain.toml")
OUTPUTS = Path("outputs")


def main() -> int:
    """Offer what is next.

    Raises:
        ConfigError: the answers ended before a config was made.
    """
    if not (ask.can_ask() and sys.stdout.isatty()):
        print(general_help())
        return 0
    if FILE.is_file():
        print("\n".join(typed_here()))
        return 0
    try:
        wanted = ask.agreed(f"There is no {FILE} here. Answer six questions to make one?")
    except ask.NoAnswer:
        return 0
    if not wanted:
        print(general_help())
        return 0
    from retrain.cli import init_interactive

    return init_interactive.main(FILE)


def typed_here() -> list[str]:
    """Return what can be typed in a folder that has a config."""
    commands = {
        "retrain explain": "what it would do, and where each value comes from",
        f"retrain {FILE}": "do it",
        f"retrain {FILE} --max-steps 5": "do a little of it; every key is a flag",
    }
    if OUTPUTS.is_dir():
        commands["retrain status"] = "what became of the runs here"
    commands["retrain --help"] = "everything else"
    width = max(map(len, commands))
    return [f"{FILE} is here:", *(f"  {command:<{width}}  {what}" for command, what in commands.items())]
