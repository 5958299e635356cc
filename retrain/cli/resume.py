"""`retrain resume RUN`: go on with a run in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli import campaign
from retrain.cli.flags import one_run, take_own
from retrain.cli.progress import shown
from retrain.cli.train import watched
from retrain.errors import ConfigError
from retrain.references import find_either, is_campaign

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Resume one run from its newest checkpoint.

    Raises:
        ConfigError: no such run, or one that cannot be resumed.
        RunError, Interrupted: as for a run.
    """
    own, rest = take_own("resume", arguments)
    overrides = rest[1:]
    if overrides and not overrides[0].startswith(("-", "~", "+")) and "=" not in overrides[0]:
        one_run("resume", rest)
    run_dir = find_either(one_run("resume", rest[:1]))
    if is_campaign(run_dir):
        return campaign.resume(run_dir, overrides, retry_failed="--retry-failed" in own)
    if own:
        raise ConfigError(
            f"--retry-failed is for campaigns, and {shown(run_dir)} is one run",
            f"retrain resume {shown(run_dir)} goes on from its newest checkpoint",
        )
    from retrain import run
    from retrain.config import compose

    composed = compose(run_dir / "config.toml", overrides) if overrides else None
    return watched(lambda emit: run.resume(run_dir, composed, emit=emit))
