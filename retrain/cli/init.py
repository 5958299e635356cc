"""`retrain init`: a commented TOML to start from."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.cli import output
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

DEFAULT_TEMPLATE, DEFAULT_FILE = "demo", "retrain.toml"


def main(arguments: Sequence[str]) -> int:
    """Write one template, make a config from answers, or list the templates.

    Raises:
        ConfigError: an unknown template, flags that contradict each other, a file that exists already or cannot be
            written, questions without anybody to answer.
    """
    flags, positional = parse("init", arguments)
    if positional:
        raise ConfigError(f'"{positional[0]}" is not expected; retrain init --output {positional[0]} writes there')
    if "--json" in flags and "--list" not in flags:
        raise ConfigError("--json is for the list of templates; retrain init --list --json")
    if "--list" in flags:
        list_templates(as_json="--json" in flags)
        return 0
    file = Path(flags.get("--output", DEFAULT_FILE))
    if "--interactive" in flags:
        if "--template" in flags:
            raise ConfigError("--template takes a config as it is, and --interactive makes one; take one of them")
        from retrain.cli import init_interactive

        return init_interactive.main(file)
    name = flags.get("--template", DEFAULT_TEMPLATE)
    if name not in TEMPLATES:
        raise ConfigError(unknown_name(kind="template", name=name, known=list(TEMPLATES), key="--template"))
    write(file, template(name))
    output.say("\n".join([f"wrote {file}: {TEMPLATES[name]}", *next_lines(file)]))
    return 0


def list_templates(*, as_json: bool) -> None:
    if as_json:
        found = [{"name": n, "summary": what, "default": n == DEFAULT_TEMPLATE} for n, what in TEMPLATES.items()]
        output.document({"templates": found})
        return
    width = max(map(len, TEMPLATES))
    print("\n".join(f"{name:<{width}}  {what}" for name, what in TEMPLATES.items()))


def next_lines(file: Path) -> list[str]:
    """Return what to type once a config is written."""
    explain = "retrain explain" if file == Path(DEFAULT_FILE) else f"retrain explain {file}"
    width = max(len(explain), len(f"retrain {file}"))
    return ["next:", f"  {explain:<{width}}  what it would do", f"  {f'retrain {file}':<{width}}  do it"]


def template(name: str) -> str:
    """Return the text of a template."""
    return resources.files("retrain.cli").joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")


def refuse_existing(file: Path) -> None:
    """Leave a file that is there as it is.

    Raises:
        ConfigError: it is there, or its folder is not.
    """
    if not file.parent.is_dir():
        raise ConfigError(f"{file} cannot be written: there is no folder {file.parent}; --output FILE writes elsewhere")
    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file} exists already and is left as it is; --output FILE writes elsewhere")


def write(file: Path, text: str) -> None:
    """Create a file that does not exist yet.

    Raises:
        ConfigError: it does, or it cannot be written.
    """
    refuse_existing(file)
    try:
        with file.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{file} cannot be written: {reason}; --output FILE writes elsewhere") from None
