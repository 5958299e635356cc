"""`retrain resume RUN`: go on with a run in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli.flags import one_run
from retrain.cli.references import find_run
from retrain.cli.train import watched

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Resume one run from its newest checkpoint.

    Raises:
        ConfigError: no such run, or one that cannot be resumed.
        RunError, Interrupted: as for a run.
    """
    run_dir = find_run(one_run("resume", arguments))
    from retrain import run

    return watched(lambda emit: run.resume(run_dir, emit=emit))
