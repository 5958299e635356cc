"""``python -m retrain.tracking RUN_DIR [--once]``: the follower of a run directory."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from retrain.errors import RetrainError
from retrain.tracking.follower import PATIENCE_SECONDS, follow, sync

NICENESS = 10  # training goes first


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m retrain.tracking", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is missing now, then end: retrain sync")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds to wait for a dead tracker after the run's end",
    )
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    log = logging.getLogger("retrain.tracking")
    log.setLevel(logging.INFO)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # what a batch system tells a run, it tells all its processes
        signal.signal(number, signal.SIG_IGN)
    try:
        if arguments.once:
            return 0 if sync(arguments.run_dir, log.info) else 1
        os.nice(NICENESS)
        follow(arguments.run_dir, arguments.patience)
    except RetrainError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


sys.exit(main())
