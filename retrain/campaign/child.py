"""One run of a campaign, in a process of its own.

    python -P -m retrain.campaign.child DIRECTORY [--place FOLDER]… [--source TOML]

Trains what DIRECTORY/config.toml says, in exactly this directory: from the start, or from where the run there has come
to; a run that is done stays as it is. The exit codes are those of the command line: 0 done, 1 failed, 2 wrong input,
130 interrupted. What happens is one line each on stderr, which the supervisor sends to DIRECTORY/child.log.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import run, runs
from retrain.config import compose
from retrain.errors import Interrupted, RetrainError
from retrain.events import CheckpointSaved, Diagnosed, Evaluated, Event, Phase, RunStarted, StepDone

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = ("reward/mean", "reward/correct_rate", "eval/score", "time/total")  # of a step, in its line


def main(argv: Sequence[str]) -> int:
    """Train one run and return the exit code. What is not a `RetrainError` is a defect and propagates."""
    parser = argparse.ArgumentParser(prog="retrain.campaign.child", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--place", type=Path, action="append", default=[], help="where plugins are looked for")
    parser.add_argument("--source", type=Path, help="the TOML that the run came from")
    given = parser.parse_args(argv)
    faulthandler.enable()  # a crash in native code leaves its stacks in child.log
    try:
        with contextlib.redirect_stdout(sys.stderr):  # one order in one file, nothing held back in a buffer
            train(given.directory, given.place, given.source)
    except KeyboardInterrupt:
        say("interrupted")
        return Interrupted.exit_code
    except RetrainError as error:
        for problem in error.problems:
            say(f"error: {problem}")
        return error.exit_code
    return 0


def train(directory: Path, places: Sequence[Path], source: Path | None) -> None:
    """Begin, or go on with, the run of a directory; nothing when it is done.

    Raises:
        ConfigError, RunError, Interrupted: as for any run.
    """
    is_begun = (directory / "run.json").exists()
    if is_begun and runs.sound_record(directory).state == "done":
        say(f"{directory} is done already")
        return
    # At the end of the path: a plugin is found by every look-up, and no file beside the TOML hides an installed module.
    sys.path.extend(str(place) for place in places)
    composed = compose(directory / "config.toml")
    composed = replace(composed, places=list(dict.fromkeys([*places, *composed.places])))
    if source is not None:
        composed = replace(composed, path=source, name=source.stem)
    if is_begun:
        run.resume(directory, composed, emit=tell, follow=False)
    else:
        run.run(composed, emit=tell, directory=directory, follow=False)


def tell(event: Event) -> None:
    """Write an event as a line."""
    match event:
        case Phase(name="load"):
            say(f"loading {event.detail}".rstrip())
        case RunStarted():
            say(f"steps {event.first_step + 1} to {event.max_steps}")
        case StepDone():
            say(f"step {event.step}/{event.max_steps}: {_facts(event)}")
        case Evaluated():
            say(f"held-out score after step {event.step}: {_facts(event)}")
        case Diagnosed():
            say(f"problem at step {event.step}: {event.message}; {event.hint}")
        case Phase() | CheckpointSaved():
            pass  # in heartbeat.json and log.txt
        case _:
            say(f"warning: {event.message}")


def _facts(event: StepDone | Evaluated) -> str:
    return ", ".join(f"{name} {event.metrics[name]:.4g}" for name in SHOWN if name in event.metrics)


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end a run
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
