"""`retrain backends`: what each backend and each engine honours and needs, and whether it is usable here.

All of it is read from the registry, where the choices say what they can do, and from the packages' metadata: nothing
is imported, and nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrain import estimate, registry
from retrain.capabilities import Capabilities, EngineCapabilities
from retrain.cli import output
from retrain.cli.flags import parse
from retrain.cli.plugins import Plugin, built_in, installed, option_lines, places_in_config
from retrain.cli.status_view import Style
from retrain.config.schema import KEYS
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.capabilities import Needs
    from retrain.cli.plugin_source import Option

KINDS = ("backend", "engine")
GREEN, RED = 32, 31
LABEL = 10  # columns of "usable", "needs", …


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One backend or engine. What only importing it would tell is None.

    usable:  whether it can be chosen on this machine; missing, fix: what it lacks, and the command that helps
    here:    of its kinds of device, those that seem to be there
    ignores: config keys that have no effect with it; honours: all others
    """

    kind: str
    name: str
    origin: str
    where: str
    target: str
    summary: str
    usable: bool
    missing: list[str]
    fix: str
    needs: list[str] | None
    extra: str | None
    devices: list[str] | None
    here: list[str] | None
    trains: list[str] | None
    gives: list[str] | None
    resume: str | None
    honours: list[str] | None
    ignores: list[str] | None
    options: list[Option] | None


def main(arguments: Sequence[str]) -> int:
    """Print every backend and engine.

    Raises:
        ConfigError: an argument.
    """
    flags, positional = parse("backends", arguments)
    if positional:
        raise ConfigError(f"retrain backends takes no argument, got {' '.join(positional)}", "retrain backends --help")
    found = list(choices())
    if "--json" in flags:
        documents = {f"{kind}s": [dataclasses.asdict(c) for c in found if c.kind == kind] for kind in KINDS}
        output.document(documents)
    else:
        print(text(found, Style.of(sys.stdout)))
    return 0


def choices() -> Iterator[Choice]:
    """Yield every backend, then every engine: those of the package, then those of installed ones."""
    plugins = [plugin for plugin in (*built_in(), *installed()) if plugin.kind in KINDS]
    for kind in KINDS:
        for plugin in plugins:
            if plugin.kind == kind:
                yield choice(plugin, registry.declared(kind, plugin.name))


def choice(plugin: Plugin, can: Needs | None) -> Choice:
    """Return what is known of one name."""
    top = plugin.target.partition(":")[0].partition(".")[0]
    missing = can.absent if can else [top] if importlib.util.find_spec(top) is None else []
    fix = f'pip install "retrain[{can.extra}]"' if can else f"install {plugin.where} again"
    gpu = estimate.on_gpu("auto")
    here = [device for device in can.devices if device == "cpu" or gpu] if can else None
    own = [dotted for dotted, key in KEYS.items() if can and dotted not in can.ignores and key.section != "campaign"]
    return Choice(
        **{name: getattr(plugin, name) for name in ("kind", "name", "origin", "where", "target", "summary", "options")},
        usable=not missing and here != [],
        missing=missing,
        fix=fix if missing else "",
        needs=can.needed if can else None,
        extra=can.extra if can else None,
        devices=list(can.devices) if can else None,
        here=here,
        trains=list(can.trains) if isinstance(can, Capabilities) else None,
        gives=sorted(can.gives) if isinstance(can, EngineCapabilities) else None,
        resume=can.resume if isinstance(can, Capabilities) else None,
        honours=own if can else None,
        ignores=list(can.ignores) if can else None,
    )


# --- as text --------------------------------------------------------------------------------------------------------


def text(found: Sequence[Choice], style: Style) -> str:
    """Return the list for a person."""
    parts = []
    for kind in KINDS:
        parts.append(f"{kind}: {places_in_config(kind)}")
        parts += ["\n".join(lines_of(choice, style)) for choice in found if choice.kind == kind]
    return "\n\n".join(parts)


def lines_of(choice: Choice, style: Style) -> list[str]:
    """Return the lines of one choice."""
    origin = "" if choice.origin == "built-in" else f" ({choice.origin}: {choice.where})"
    lines = style.fold(f"{choice.name}: {choice.summary}{origin}", "  ")
    width = max(4 + LABEL + 20, style.width or sys.maxsize)
    for label, said in facts(choice):
        folded = textwrap.wrap(
            f"{label:<{LABEL}}{said}", width, initial_indent=" " * 4, subsequent_indent=" " * (4 + LABEL)
        )
        if label == "usable":
            folded = [style.paint(line, GREEN if choice.usable else RED) for line in folded]
        lines += folded
    for option in choice.options or ():
        lines += option_lines(option, 4, width)
    return lines


def facts(choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield what is known of a choice: a label, and what is to be said."""
    if choice.usable:
        yield "usable", f"yes, on {' and '.join(choice.here)}" if choice.here else "it is installed"
    elif choice.missing:
        yield "usable", f"no: {', '.join(choice.missing)} not installed; {choice.fix}"
    else:
        yield "usable", f"no: there is no {' or '.join(choice.devices or ())} here"
    if choice.needs is None:
        yield "honours", "not known without importing it"
        return
    yield "needs", f"{', '.join(choice.needs)} (extra {choice.extra})"
    yield "devices", ", ".join(choice.devices or ())
    if choice.trains:
        said = {"lora": "LoRA adapters", "full": "all weights (model.lora_rank = 0)"}
        yield "trains", ", ".join(said[kind] for kind in choice.trains)
    if choice.gives is not None:
        yield "gives", ", ".join(["log-probabilities", *choice.gives])
    if choice.resume:
        yield "resumes", choice.resume
    yield "honours", f"every key but {', '.join(choice.ignores)}" if choice.ignores else "every key of a config"
