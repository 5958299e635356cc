"""Lists for `candidates`: files, runs, topics, group files, the values of a key. One function a kind of thing.

Every list comes from where the program itself looks: the schema, the registry, the library of group files, outputs/.
What cannot be read has nothing to offer.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.cli.shell_line import Candidate
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from retrain.cli.candidates import Line
    from retrain.config.keys import Key
    from retrain.config.layers import Library

METRICS_BYTES = 64 * 1024  # of the end of metrics.jsonl: some evaluations are among these lines


# --- files and folders ------------------------------------------------------------------------------------------------


def _paths(typed: str, wanted: Callable[[os.DirEntry[str]], bool]) -> Iterator[Candidate]:
    """Yield folders and the files that are wanted, in the folder that is being typed; hidden ones when asked for."""
    place, name = typed[: typed.rfind("/") + 1], typed[typed.rfind("/") + 1 :]
    with suppress(OSError), os.scandir(Path(place or ".").expanduser()) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
                if entry.is_dir():
                    yield Candidate(f"{place}{entry.name}/")
                elif wanted(entry):
                    yield Candidate(f"{place}{entry.name}")


def toml(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001  as all of `KINDS`
    return _paths(typed, lambda entry: entry.name.endswith(".toml"))


def file(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    return _paths(typed, lambda _: True)


def folder(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    return _paths(typed, lambda _: False)


# --- runs -------------------------------------------------------------------------------------------------------------


def run(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    """Yield what `retrain.references` understands: names, ``mini@-2``, paths; a run is whole, other folders go on."""
    from retrain import references

    return _references(typed, references.is_either)


def campaign(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    """Yield as `run`, campaigns only."""
    from retrain import references

    return _references(typed, references.is_campaign)


def _references(typed: str, is_one: Callable[[Path], bool]) -> Iterator[Candidate]:
    from retrain import references

    families = references.families(is_one)
    name, at, _ = typed.partition("@")
    if at:
        count = len(families.get(name, ()))
        yield from (Candidate(f"{name}@-{back}", str(families[name][-back])) for back in range(1, count + 1))
        return
    names = [Candidate(family, f"the latest of {len(found)}") for family, found in families.items()]
    if families:
        names.append(Candidate("latest", "of all"))
    of_one = [Candidate(str(one.relative_to(references.OUTPUTS))) for found in families.values() for one in found]
    fitting = [one for one in (names if "/" not in typed else of_one) if one.text.startswith(typed)]
    yield from fitting
    if not fitting:
        yield from (_run_folder(one, is_one) for one in _paths(typed, lambda _: False))


def _run_folder(found: Candidate, is_one: Callable[[Path], bool]) -> Candidate:
    path = Path(found.text).expanduser()
    return Candidate(found.text.rstrip("/")) if is_one(path) else found


def weights(typed: str, line: Line) -> Iterable[Candidate]:
    """Yield what `retrain eval` scores: runs, folders, models."""
    from retrain.config.schema import KEYS

    yield from run(typed, line)
    yield from of_key(KEYS["model.model"], typed, line)


def metric(typed: str, line: Line) -> Iterator[Candidate]:  # noqa: ARG001
    """Yield the metrics of the runs that are named, else of the newest one here."""
    from retrain import references

    folders: list[Path] = []
    for text in line.positional or ["latest"]:
        with suppress(ConfigError):
            folders.append(references.find_either(text))
    for directory in folders:
        runs = references.runs_under(directory) if references.is_campaign(directory) else [directory]
        for path in (one / "metrics.jsonl" for one in reversed(runs)):
            if path.is_file():
                yield from map(Candidate, sorted({name for values in _last_lines(path) for name in values}))
                break


def _last_lines(path: Path) -> Iterator[dict[str, float]]:
    with path.open("rb") as lines:
        lines.seek(max(0, path.stat().st_size - METRICS_BYTES))
        for one in lines.read().split(b"\n"):
            with suppress(ValueError):  # cut off at either end
                values = json.loads(one)
                yield values if isinstance(values, dict) else {}


# --- names ------------------------------------------------------------------------------------------------------------


def topic(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    from retrain import manual

    return (Candidate(name, about) for name, about in manual.topics().items())


def template(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    from retrain.cli.init import TEMPLATES

    return (Candidate(name, about) for name, about in TEMPLATES.items())


def kind(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    from retrain.cli.init_plugin import KINDS

    return map(Candidate, KINDS)


def family(typed: str, line: Line) -> Iterable[Candidate]:  # noqa: ARG001
    from retrain import registry

    return map(Candidate, registry.BUILTIN)


def key(typed: str, line: Line) -> Iterator[Candidate]:  # noqa: ARG001
    """Yield dotted keys, also after a comma."""
    from retrain.config.schema import KEYS

    listed = typed[: typed.rfind(",") + 1]
    for dotted, known in KEYS.items():
        if dotted not in listed.split(","):
            yield Candidate(listed + dotted, known.help)


KINDS: dict[str, Callable[[str, Line], Iterable[Candidate]]] = {
    "toml": toml,
    "file": file,
    "folder": folder,
    "run": run,
    "campaign": campaign,
    "weights": weights,
    "metric": metric,
    "topic": topic,
    "template": template,
    "kind": kind,
    "family": family,
    "key": key,
}
"""What `retrain.cli.commands` says that a flag or an argument takes → what is offered for it."""

FREE = ("", "number", "text")
"""Kinds with nothing to offer."""


def of_kind(name: str, typed: str, line: Line) -> Iterator[Candidate]:
    """Yield what fits a kind, or several: ``auto|run``. One without a list is a word itself."""
    for one in name.split("|"):
        if one in KINDS:
            yield from KINDS[one](typed, line)
        elif one not in FREE:
            yield Candidate(one)


# --- configs ----------------------------------------------------------------------------------------------------------


def library(line: Line) -> Library:
    """Return the group files that a command line may pick."""
    from retrain.config.compose import library_of

    return library_of(line.config, [*map(Path.absolute, line.folders)], Path.cwd())


def group_files(group: str, line: Line) -> Iterator[Candidate]:
    """Yield the files of a group, each with the first sentence of the comment at its top."""
    known = library(line)
    for name in known.options(group):
        path = known.find(group, name)
        yield Candidate(name, _about(path) if path else "")


def _about(path: Path) -> str:
    comment = []
    with suppress(OSError, ValueError), path.open(encoding="utf-8") as lines:
        for text in lines:
            if not text.startswith("#"):
                break
            comment.append(text.strip("# \n"))
    return re.split(r"(?<=[^.\s]{3})\. ", " ".join(comment))[0].rstrip(".")  # not after the Dr of Dr. GRPO


def conditions(line: Line) -> Iterable[Candidate]:
    """Yield the labels of a campaign's conditions."""
    from retrain.config.compose import condition_labels

    with suppress(ConfigError):
        return map(Candidate, condition_labels(line.config, Path.cwd()) if line.config else ())
    return ()


def is_campaign(line: Line) -> bool:
    """Tell whether the command line is of many runs."""
    from retrain.campaign.words import MULTIRUN
    from retrain.config.campaign import is_in

    return bool(line.given & set(MULTIRUN)) or (line.config is not None and is_in(line.config))


def of_key(key: Key, typed: str, line: Line) -> Iterable[Candidate]:
    """Yield the values that a key may have, where they are a list."""
    from retrain import registry
    from retrain.config import values

    if values.base_type(key) is bool:
        return map(Candidate, ("true", "false"))
    if key.choices:
        return map(Candidate, key.choices)
    if key.registry:
        return (Candidate(name, entry.summary) for name, entry in registry.names(key.registry).items())
    if key.identity:
        return _chosen_by_group_files(key, line)
    return of_kind(key.takes, typed, line)


def _chosen_by_group_files(key: Key, line: Line) -> Iterator[Candidate]:
    """Yield the values that group files give a key: hub ids of models."""
    import tomllib

    known = library(line)
    for name in known.options(key.section):
        path = known.find(key.section, name)
        with suppress(OSError, ValueError):
            value = tomllib.loads(path.read_text(encoding="utf-8")).get(key.name) if path else None
            if value and isinstance(value, str):
                yield Candidate(value, f"{key.section}={name}")


def of_campaign_key(key: Key, typed: str, line: Line) -> Iterable[Candidate]:
    """Yield the values that a key of `[campaign]` may have."""
    if key.name == "baseline":
        return conditions(line)
    return of_key(key, typed, line)


def of_hydra() -> dict[str, tuple[str, Iterable[str]]]:
    """Return what of Hydra's own a campaign takes → (what it is, the values that it may have)."""
    from retrain.campaign import launchers, search
    from retrain.config.schema import CAMPAIGN_KEYS

    launcher, sweeper = CAMPAIGN_KEYS["launcher"], CAMPAIGN_KEYS["sweeper"]
    options = {"direction": search.DIRECTIONS}
    return {
        "hydra/launcher": (launcher.help, (launcher.default, *launchers.PLUGINS)),
        "hydra/sweeper": (sweeper.help, sweeper.choices),
        "hydra/sweeper/sampler": ("who proposes the trials of a search", search.SAMPLERS),
        **{f"hydra.sweeper.{name}": ("an option of a search", options.get(name, ())) for name in search.OPTIONS},
    }


def backend_options(typed: str) -> Iterator[Candidate]:
    """Yield ``threads=``: the options of the backends, and their values behind it."""
    from importlib import import_module

    from retrain import registry
    from retrain.config import values
    from retrain.config.keys import keys_of

    for entry in registry.BUILTIN["backend"].values():
        module, attribute = registry.split(entry.options)
        for known in keys_of("options", getattr(import_module(module), attribute)) if module else ():
            choices = ("true", "false") if values.base_type(known) is bool else known.choices
            if typed.startswith(f"{known.name}="):
                yield from (Candidate(f"{known.name}={value}") for value in choices)
            else:
                yield Candidate(f"{known.name}=", known.help)
