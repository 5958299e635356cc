"""`retrain init`: a commented TOML to start from."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.cli.flags import parse
from retrain.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

TEMPLATES: dict[str, str] = {
    "demo": "a tiny model learns to add: about a minute on any CPU, no download",
    "quickstart": "a real model on competition maths or your own problems, on one GPU",
    "campaign": "three conditions and four seeds of the tiny model, and a verdict: some minutes on any CPU",
    "experiment": "a claim, its baseline and a control on a real model, with five seeds, a budget and a verdict",
}
"""Name → what it is; the text is in templates/NAME.toml."""


def main(arguments: Sequence[str]) -> int:
    """Write one template, or list them.

    Raises:
        ConfigError: an unknown template, a file that exists already or cannot be written.
    """
    flags, positional = parse("init", arguments)
    if positional:
        raise ConfigError(f'"{positional[0]}" is not expected; retrain init --output {positional[0]} writes there')
    if "--list" in flags:
        width = max(map(len, TEMPLATES))
        print("\n".join(f"{name:<{width}}  {what}" for name, what in TEMPLATES.items()))
        return 0
    name, output = flags.get("--template", "demo"), Path(flags.get("--output", "retrain.toml"))
    if name not in TEMPLATES:
        raise ConfigError(unknown_name(kind="template", name=name, known=list(TEMPLATES), key="--template"))
    write(output, template(name))
    print(f"wrote {output}: {TEMPLATES[name]}", file=sys.stderr)
    shown = "" if output == Path("retrain.toml") else f" {output}"
    print(f"next:\n  retrain explain{shown}    what it would do\n  retrain {output}    do it", file=sys.stderr)
    return 0


def template(name: str) -> str:
    """Return the text of a template."""
    return resources.files("retrain.cli").joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")


def write(output: Path, text: str) -> None:
    """Create a file that does not exist yet."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output} exists already and is left as it is; --output FILE writes elsewhere") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{output} cannot be written: {reason}; --output FILE writes elsewhere") from None
