"""`retrain CONFIG.toml …`: compose, train, say what came of it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.cli import output
from retrain.cli.progress import Watch, shown
from retrain.errors import ConfigError, RetrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from retrain.config import Composed
    from retrain.events import Emit
    from retrain.types import RunResult

TRACKER_SECONDS = 15.0  # how long a finished run waits for its tracker


def main(arguments: Sequence[str]) -> int:
    """Train what the first argument describes.

    Raises:
        ConfigError: the config is wrong or an extra is missing; nothing was written.
        RunError: the run could not go on; its directory says so.
        Interrupted: SIGTERM; KeyboardInterrupt: Ctrl-C.
    """
    if not arguments:
        raise ConfigError("retrain train takes a config; retrain CONFIG.toml")
    from retrain.cli import campaign

    if campaign.is_one(Path(arguments[0]), arguments[1:]):
        return campaign.main(Path(arguments[0]), arguments[1:])
    from retrain.config import compose

    composed = compose(Path(arguments[0]), arguments[1:])
    if line := replaced(composed):
        output.say(line)
    from retrain import run

    return watched(lambda emit: run.run(composed, emit=emit))


def watched(start: Callable[[Emit], RunResult]) -> int:
    """Run something that emits events: show them, sum up, and print the run directory as the one line on stdout."""
    with Watch() as watch:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # libraries print when they are imported
                start(watch.emit)
        except (RetrainError, KeyboardInterrupt):
            watch.close()
            tell(watch.dir)
            raise
        finally:
            output.detail(f"time: {watch.spent}")
    tell(watch.dir)
    return 0


def tell(run_dir: Path | None) -> None:
    """Say how a run ended; nothing when it ended before its directory existed."""
    if run_dir is None:
        return
    from retrain import tracking
    from retrain.cli import summary

    everything_sent = tracking.wait_for_follower(run_dir, TRACKER_SECONDS)
    output.say(summary.summarise(run_dir))
    if not everything_sent:
        output.say(f"the tracker still misses something; retrain sync {shown(run_dir)} sends it")
    with contextlib.suppress(BrokenPipeError):  # how the run ended matters more than a reader that is gone
        print(shown(run_dir), flush=True)


def replaced(composed: Composed) -> str:
    """Return one line that names the values of files which the command line replaces; empty when there are none."""
    from retrain.config import mask

    pairs = []
    for key, values in composed.shadowed.items():
        if composed.origins[key].kind == "command line":
            value, place = values[0]
            pairs.append(f"{key} = {mask(value, key)} ({place})")
    return f"the command line replaces {', '.join(pairs)}" if pairs else ""
