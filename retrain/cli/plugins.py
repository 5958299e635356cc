"""`retrain plugins`: every name that a config may choose, where it comes from, and its options.

Nothing is imported to find out: of a built-in choice the registry knows enough, of an installed package its metadata
are read, and a module beside the TOML is parsed, not run.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import textwrap
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import registry
from retrain.cli import output
from retrain.cli.flags import parse
from retrain.cli.plugin_source import Option, read
from retrain.config.keys import keys_of
from retrain.config.schema import KEYS
from retrain.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.config import Composed

HEADINGS: dict[str, str] = {"mode": "lists of transforms", "transform": "a name in algorithm.transforms"}
"""Families whose place in a config is not said by one key of the schema alone."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One name of a family.

    origin:  "built-in", "entry point" or "module"
    where:   the distribution and its version, or the module's file
    target:  "package.module:attribute"; empty for a list of transforms
    options: None where they cannot be known without importing it
    """

    kind: str
    name: str
    origin: str
    where: str
    target: str
    summary: str
    options: list[Option] | None


def main(arguments: Sequence[str]) -> int:
    """List the names of one family or of all; with CONFIG, also the modules of one's own that it names.

    Raises:
        ConfigError: an unknown family, or what is wrong with CONFIG.
    """
    flags, positional = parse("plugins", arguments)
    if len(positional) > 1:
        raise ConfigError(f"retrain plugins takes one CONFIG, got {len(positional)}: {' '.join(positional)}")
    kind = flags.get("--kind", "")
    if kind and kind not in registry.BUILTIN:
        raise ConfigError(unknown_name(kind="family", name=kind, known=list(registry.BUILTIN), key="--kind"))
    found = [*built_in(), *installed()]
    if positional:
        from retrain.config import compose

        found += named_by(compose(Path(positional[0])))
    kinds = [kind] if kind else list(registry.BUILTIN)
    found = [plugin for kind in kinds for plugin in found if plugin.kind == kind]
    if "--json" in flags:
        output.document({"plugins": [dataclasses.asdict(p) for p in found]})
    else:
        print(text(found))
    return 0


# --- where names come from ------------------------------------------------------------------------------------------


def built_in() -> Iterator[Plugin]:
    """Yield what the registry's table holds; options come from the dataclasses that declare them."""
    from retrain import __version__

    for kind, table in registry.BUILTIN.items():
        for name, entry in table.items():
            yield Plugin(
                kind=kind,
                name=name,
                origin="built-in",
                where=f"retrain {__version__}",
                target=entry.target,
                summary=entry.summary,
                options=declared(entry.options) if entry.options else [],
            )


def declared(options: str) -> list[Option]:
    """Return the options that a dataclass declares, named as "package.module:Dataclass"."""
    module, _, attribute = options.partition(":")
    keys = keys_of("", getattr(importlib.import_module(module), attribute))
    return [
        Option(name=key.name, type=getattr(key.type, "__name__", str(key.type)), default=key.default, help=key.help)
        for key in keys
    ]


def installed() -> Iterator[Plugin]:
    """Yield the entry points of installed packages, from their metadata; a built-in name stays the built-in one."""
    for kind, table in registry.BUILTIN.items():
        seen = set(table)
        for point in entry_points(group=f"retrain.{kind}s"):
            if point.name in seen:
                continue
            seen.add(point.name)
            yield Plugin(
                kind=kind,
                name=point.name,
                origin="entry point",
                where=f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package",
                target=point.value,
                summary=(point.dist.metadata["Summary"] or "") if point.dist else "",
                options=None,
            )


def named_by(composed: Composed) -> Iterator[Plugin]:
    """Yield the modules that a config names, each once."""
    from retrain.config.transforms import entries

    config = composed.config
    chosen = [
        (key.registry, getattr(getattr(config, key.section), key.name))
        for key in KEYS.values()
        if key.registry not in ("", "mode")
    ]
    chosen += [("transform", entry["name"]) for entry in entries(config)]
    for kind, name in dict.fromkeys(chosen):
        if name in registry.names(kind) or not registry.is_import_path(name):
            continue
        module, attribute = registry.split(name)
        found = read(kind, module, attribute, composed.places)
        yield Plugin(
            kind=kind,
            name=name,
            origin="module",
            where=found.file,
            target=f"{module}:{attribute}",
            summary=found.summary,
            options=found.options,
        )


# --- as text --------------------------------------------------------------------------------------------------------


def text(plugins: Sequence[Plugin]) -> str:
    """Return the list for a person: by family, each name with its meaning, origin and options."""
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    parts = []
    for kind in dict.fromkeys(plugin.kind for plugin in plugins):
        family = [plugin for plugin in plugins if plugin.kind == kind]
        margin = max(len(plugin.name) for plugin in family) + 4
        lines = [f"{kind}: {places_in_config(kind)}"]
        for plugin in family:
            lines += entry_lines(plugin, margin, width)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def places_in_config(kind: str) -> str:
    """Return the keys of a config that choose from this family."""
    keys = [key.dotted for key in KEYS.values() if key.registry == kind]
    return ", ".join([*keys, *([HEADINGS[kind]] if kind in HEADINGS else [])])


def entry_lines(plugin: Plugin, margin: int, width: int) -> list[str]:
    """Return the lines of one name; what is not built in says where it comes from."""
    said = [plugin.summary] if plugin.summary else []
    if plugin.origin != "built-in":
        said.append(f"({plugin.origin}: {short(plugin.where)})")
    if plugin.options is None:
        said.append("options: see there")
    lines = textwrap.wrap(" ".join(said), max(30, width - margin), break_on_hyphens=False, break_long_words=False) or [
        ""
    ]
    lines = [f"  {plugin.name:<{margin - 2}}{lines[0]}", *(" " * margin + line for line in lines[1:])]
    for option in plugin.options or ():
        lines += option_lines(option, margin + 2, max(margin + 30, width))
    return [line.rstrip() for line in lines]


def option_lines(option: Option, margin: int, width: int) -> list[str]:
    """Return the lines of one option: its default, and what it means."""
    shown = json.dumps(option.default, ensure_ascii=False)
    meaning = f"{option.name} = {shown}  {option.help or option.type}"
    return textwrap.wrap(meaning, width, initial_indent=" " * margin, subsequent_indent=" " * (margin + 4))


def short(where: str) -> str:
    """Return a file of the working directory without the way there; anything else as it is."""
    return str(Path(where).relative_to(Path.cwd())) if Path(where).is_relative_to(Path.cwd()) else where
