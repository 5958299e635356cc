"""What `retrain --help` and `retrain COMMAND --help` print."""

from __future__ import annotations

import re

from retrain.cli.commands import COMMANDS

RUN_REFERENCES = """\
RUN is a run directory, or short for one under outputs/:
  mini          the latest run of mini.toml
  mini@-2       the one before that
  2025-06-01    any beginning that fits one run only
  latest        the latest run of all
CAMPAIGN likewise: abl is the latest campaign of abl.toml, and its runs are in its folder runs/."""
"""What stands at the end of the help of every command that takes runs."""


def general_help() -> str:
    """Return what `retrain --help` prints."""
    width = max(len(name) for name in COMMANDS)
    others = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items() if name != "train")
    return f"""\
retrain: one TOML becomes one finished, tracked, repeatable reinforcement learning run

  {COMMANDS["train"].usage}
                             {COMMANDS["train"].summary}

Commands:
{others}

  retrain COMMAND --help     more about one; retrain train --help: about overrides and flags
  retrain --version

Everywhere, before or after the command:
  -q, --quiet                results and errors only
  -v, --verbose              also what libraries log, every step, and where the time goes
  --json                     for programs, where a command has it: one JSON document on stdout, errors as one on stderr
NO_COLOR=1, FORCE_COLOR=1, COLUMNS=80 and TERM=dumb are heeded. A value that looks like a switch: --run-name=-q

New here:
  retrain init               write retrain.toml, a run that takes about a minute on a CPU
  retrain retrain.toml       do it"""


def command_help(name: str) -> str:
    """Return what `retrain COMMAND --help` prints."""
    command = COMMANDS[name]
    references = RUN_REFERENCES if re.search(r"\bRUN\b", command.usage) else ""
    parts = [command.usage, f"{command.summary[0].upper()}{command.summary[1:]}.", command.details, references]
    return "\n\n".join(filter(None, parts))
