"""`retrain sync RUN|CAMPAIGN`: send to the tracker what it has missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli import extras, output
from retrain.cli.flags import one_run
from retrain.references import find_either, is_campaign

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Send what is missing now; 1 when the tracker still misses something afterwards.

    Raises:
        ConfigError: no such run, or no tracker installed.
    """
    directory = find_either(one_run("sync", arguments))
    extras.require("tracking", "sending a run to its tracker")
    from retrain.tracking.campaigns import sync_campaign
    from retrain.tracking.follower import sync

    return 0 if (sync_campaign if is_campaign(directory) else sync)(directory, output.say) else 1
