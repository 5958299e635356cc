"""`retrain ui`: serve the tracker's pages, say where they are, and open them where there is a screen."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from typing import TYPE_CHECKING

from retrain.cli import extras, output
from retrain.cli.flags import parse
from retrain.errors import ConfigError
from retrain.references import find_either

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

ASSISTANT = "the Assistant panel that MLflow shows on the right at first can be closed for good: one click"


def main(arguments: Sequence[str]) -> int:
    """Print the address of a run's or a campaign's page, or of the experiment's charts; serve it until Ctrl-C.

    Raises:
        ConfigError: no such run, nothing tracked, or no tracker installed.
        RunError: the server does not answer.
    """
    flags, positional = parse("ui", arguments)
    if len(positional) > 1:
        raise ConfigError(f"retrain ui takes one RUN, got {len(positional)}: {' '.join(positional)}")
    port = port_number(flags.get("--port", "0"))
    directory = find_either(positional[0]) if positional else None
    from retrain import tracking
    from retrain.config.schema import RunConfig
    from retrain.tracking.address import serve, tracking_uri_of

    config = RunConfig()
    uri = tracking_uri_of(directory) if directory else tracking.resolve_tracking_uri(config)
    remote = uri.startswith(("http://", "https://"))
    if not remote:
        extras.require("tracking", "showing the tracker's pages")
        output.say("starting a server: some seconds")
    signal.signal(signal.SIGTERM, interrupt)
    experiment = flags.get("--experiment", config.logging.experiment)
    try:
        with serve(directory, tracking_uri=uri, experiment=experiment, port=port) as address:
            print(address, flush=True)
            opened = has_screen() and webbrowser.open(address)
            if not remote:
                output.say(ASSISTANT)
                output.say(f"{'opened in the browser; ' if opened else ''}Ctrl-C ends the server")
                signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


def has_screen() -> bool:
    """Whether a person at a terminal has a browser window to look at: not in a pipe, and not through plain ssh."""
    if not sys.stdout.isatty():
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


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
