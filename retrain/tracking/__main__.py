"""``python -m retrain.tracking DIR [--once]``: the follower of a run, or of a campaign with all its runs."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from retrain.errors import RetrainError
from retrain.tracking.campaigns import follow_campaign, sync_campaign
from retrain.tracking.follower import PATIENCE_SECONDS, follow, sync
from retrain.tracking.manifest import is_campaign

NICENESS = 10  # training goes first


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m retrain.tracking", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is missing now, then end: retrain sync")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds to wait for a dead tracker after the end",
    )
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    log = logging.getLogger("retrain.tracking")
    log.setLevel(logging.INFO)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # what a batch system tells a run, it tells all its processes
        signal.signal(number, signal.SIG_IGN)
    campaign = is_campaign(arguments.directory)
    try:
        if arguments.once:
            return 0 if (sync_campaign if campaign else sync)(arguments.directory, log.info) else 1
        os.nice(NICENESS)
        (follow_campaign if campaign else follow)(arguments.directory, arguments.patience)
    except RetrainError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


sys.exit(main())
