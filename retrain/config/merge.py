"""Layers to one `RunConfig`: Hydra merges, OmegaConf resolves, and nothing after that sees either.

The primary config is generated. Its defaults list is

    schema, layer_0, layer_1, …,  {experiment: null}, {model: null}, …,  _self_

so that the layers apply in order, and the command line's group choices, which are Hydra's own overrides of the groups,
come after every file. `_self_` holds the tables that belong to a name (`origins.owned_below`), for a merge alone could
never drop them. Values of the command line are Hydra overrides and come last.
"""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from retrain.config import values
from retrain.config.interpolation import has_interpolation, unreadable, unresolvable
from retrain.config.layers import CHOICES, Library
from retrain.config.origins import Layer, Origin, owned_below
from retrain.config.schema import KEYS, SECTIONS, RunConfig
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from omegaconf import DictConfig


def merge(
    files: Sequence[Layer],
    above: Sequence[Layer],
    overrides: Sequence[str],
    library: Library,
    origins: Mapping[str, Origin],
    places: Sequence[Path],
) -> tuple[RunConfig, dict[str, Any]]:
    """Merge and resolve.

    Args:
        files: what the TOMLs say, lowest first.
        above: what the command line says, as layers; its values are the last one.
        overrides: the same in Hydra's grammar.
        library: where Hydra finds the group files of the command line.
        origins: of every key, for messages.
        places: where plugin modules are looked for.

    Returns:
        The config, and every key's value as it was before interpolations were resolved.

    Raises:
        ConfigError: interpolations that cannot be read or resolved, or whose results their keys do not take.
    """
    _refuse(unreadable([*files, *above]))
    merged = _hydra_compose(_documents(files, above), library, overrides)
    written = _written(merged)
    _refuse(unresolvable(merged, written, origins))
    config = _to_dataclasses(merged)
    problems = []
    for dotted, key in KEYS.items():
        if has_interpolation(written[dotted]):
            value = getattr(getattr(config, key.section), key.name)
            problems += values.resolved_problems(key, value, origins[dotted], places)
    _refuse(problems)
    return config, written


def _refuse(problems: list[Any]) -> None:
    if problems:
        raise ConfigError(problems)


def _documents(files: Sequence[Layer], above: Sequence[Layer]) -> dict[str, Any]:
    """Return what Hydra merges, by name."""
    documents: dict[str, Any] = {"schema": RunConfig}
    documents |= {f"layer_{index}": layer.document() for index, layer in enumerate(files)}
    owned = {dotted: owned_below([*files, *above], dotted) for dotted, key in KEYS.items() if key.owner}
    defaults = [*documents, *({group: None} for group in CHOICES), "_self_", *_without_files_of_hydra()]
    return {**documents, "retrain": {"defaults": defaults, **Layer(values=owned).document(owned=True)}}


def _without_files_of_hydra() -> Iterator[dict[str, None]]:
    """Yield what leaves out Hydra's launcher, logging and help: files that it would read with every composition."""
    from hydra.conf import HydraConf

    for entry in HydraConf().defaults:
        yield from ({f"override hydra/{group}": None} for group, choice in entry.items() if choice is not None)


def _hydra_compose(documents: Mapping[str, Any], library: Library, overrides: Sequence[str]) -> DictConfig:
    """Compose with Hydra. The one place that knows its internals, which are the same in 1.3 and 1.4."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.types import RunMode

    from retrain.config.sources import ConfSource, GeneratedSource

    version.setbase("1.3")
    for source in (ConfSource, GeneratedSource):
        Plugins.instance().register(source)
    search = create_config_search_path(None)
    search.prepend("retrain", "conf://" + os.pathsep.join(map(str, library.folders)))
    search.prepend("retrain", f"retrain://{id(documents)}")
    GeneratedSource.offered[str(id(documents))] = documents
    others = GlobalHydra.instance().hydra  # of a program that uses retrain as a library
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2(task_name="retrain", config_search_path=search)
        return hydra.compose_config(
            config_name="retrain",
            overrides=list(overrides),
            run_mode=RunMode.RUN,
            from_shell=False,
            with_log_configuration=False,
        )
    except HydraException as error:  # whatever no check of ours foresaw
        raise ConfigError(f"Hydra cannot compose this config: {error}; see the value that it names") from error
    finally:
        GlobalHydra.instance().hydra = others
        del GeneratedSource.offered[str(id(documents))]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: importing and parsing make much that stays and little that goes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _written(merged: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    sections: dict[str, Any] = {s: OmegaConf.to_container(merged[s], resolve=False) for s in SECTIONS}
    return {dotted: sections[key.section][key.name] for dotted, key in KEYS.items()}


def _to_dataclasses(merged: DictConfig) -> RunConfig:
    from omegaconf import OmegaConf

    sections: dict[str, Any] = {section: OmegaConf.to_object(merged[section]) for section in SECTIONS}
    return RunConfig(**sections)
