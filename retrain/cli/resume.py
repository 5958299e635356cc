"""`retrain resume RUN`: go on with a run in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli import campaign
from retrain.cli.flags import one_run
from retrain.cli.train import watched
from retrain.references import find_either, is_campaign

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Resume one run from its newest checkpoint.

    Raises:
        ConfigError: no such run, or one that cannot be resumed.
        RunError, Interrupted: as for a run.
    """
    overrides = arguments[1:]
    if overrides and not overrides[0].startswith(("-", "~", "+")) and "=" not in overrides[0]:
        one_run("resume", arguments)
    run_dir = find_either(one_run("resume", arguments[:1]))
    if is_campaign(run_dir):
        return campaign.resume(run_dir, overrides)
    from retrain import run
    from retrain.config import compose

    composed = compose(run_dir / "config.toml", overrides) if overrides else None
    return watched(lambda emit: run.resume(run_dir, composed, emit=emit))
