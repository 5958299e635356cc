"""`retrain ui`: serve the tracker's pages and say where they are."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from retrain.cli import extras
from retrain.cli.flags import parse
from retrain.errors import ConfigError
from retrain.references import find_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def main(arguments: Sequence[str]) -> int:
    """Print the address of a run's page, or of the experiment's charts, and serve it until Ctrl-C.

    Raises:
        ConfigError: no such run, nothing tracked, or no tracker installed.
        RunError: the server does not answer.
    """
    flags, positional = parse("ui", arguments, options=("--experiment", "--port"))
    if len(positional) > 1:
        raise ConfigError(f"retrain ui takes one RUN, got {len(positional)}: {' '.join(positional)}")
    port = port_number(flags.get("--port", "0"))
    run_dir = find_run(positional[0]) if positional else None
    from retrain import tracking
    from retrain.config.schema import RunConfig
    from retrain.store import RunRecord
    from retrain.tracking.address import serve

    config = RunConfig()
    uri = RunRecord.read(run_dir).tracking_uri if run_dir else tracking.resolve_tracking_uri(config)
    remote = uri.startswith(("http://", "https://"))
    if not remote:
        extras.require("tracking", "showing the tracker's pages")
        print("starting a server: some seconds", file=sys.stderr)
    signal.signal(signal.SIGTERM, interrupt)
    experiment = flags.get("--experiment", config.logging.experiment)
    try:
        with serve(run_dir, tracking_uri=uri, experiment=experiment, port=port) as address:
            print(address, flush=True)
            if not remote:
                print("Ctrl-C ends the server", file=sys.stderr)
                signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the server on SIGTERM as on Ctrl-C, so that no child of ours is left behind."""
    raise KeyboardInterrupt


def port_number(text: str) -> int:
    """Read a port; 0 is a free one.

    Raises:
        ConfigError: no port has this number.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ConfigError(f"--port {text} is not a port; 0 to 65535, 0 takes a free one")
    return int(text)
