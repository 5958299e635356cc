"""What Hydra reads: documents made in memory, and group files in TOML.

    retrain://ID    the schema and the layers of the user's TOML, generated (`compose`)
    conf://FOLDERS  algorithm/maxrl.toml and the like in the first folder that has it, for choices on the command line

Both are registered with Hydra by `compose` when it needs them, not through the ``hydra_plugins`` namespace: installing
retrain changes no other Hydra program of the same environment.
"""

import os
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from retrain.config.layers import CHOICES, Choice, Library, Reader
from retrain.config.origins import Origin


class GeneratedSource(ConfigSource):
    """Serves named documents that `compose` has made."""

    offered: ClassVar[dict[str, Mapping[str, Any]]] = {}  # by id; each: document name → table or dataclass

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.documents = dict(self.offered[self.path])  # a copy: a loader that outlives the session still works

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same: Hydra copies its sources with every composition, and this one never changes."""
        return self

    @staticmethod
    def scheme() -> str:
        """Return what stands before ``://``."""
        return "retrain"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a document by name."""
        document = self.documents.get(_plain(config_path))
        if document is None:
            raise ConfigLoadError(f"there is no document {config_path}")
        config = deepcopy(_structured(document)) if isinstance(document, type) else OmegaConf.create(document)
        return ConfigResult(
            config=config, path=self.full_path(), provider=self.provider, header={"package": "_global_"}
        )

    def available(self) -> bool:
        """Tell Hydra that this source can be asked."""
        return True

    def is_config(self, config_path: str) -> bool:
        """Tell whether there is a document of this name."""
        return _plain(config_path) in self.documents

    def is_group(self, config_path: str) -> bool:  # noqa: ARG002  Hydra's signature
        """Tell that there are no groups here."""
        return False

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:  # noqa: ARG002
        """Return the options of a group: none."""
        return []


class ConfSource(ConfigSource):
    """Serves group files; folders are separated as in PATH."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.library = Library([Path(folder) for folder in self.path.split(os.pathsep)], Path.cwd())

    @staticmethod
    def scheme() -> str:
        """Return what stands before ``://``."""
        return "conf"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return a group file as the sections that it sets, its own choices included."""
        group, name = self._split(config_path)
        reader = Reader(self.library.cwd, ())
        layers = reader.choice_layers([Choice(group, name, Origin(kind="command line"))], self.library)
        config = OmegaConf.create({})
        for layer in layers:
            config.merge_with(layer.document())
        return ConfigResult(
            config=config, path=self.full_path(), provider=self.provider, header={"package": "_global_"}
        )

    def available(self) -> bool:
        """Tell Hydra that this source can be asked."""
        return True

    def is_config(self, config_path: str) -> bool:
        """Tell whether there is such a group file."""
        group, name = self._split(config_path)
        return bool(group) and self.library.find(group, name) is not None

    def is_group(self, config_path: str) -> bool:
        """Tell whether this is a group of retrain's."""
        return config_path in CHOICES

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the options of a group."""
        return (
            self.library.options(config_path)
            if results_filter in {None, ObjectType.CONFIG} and self.is_group(config_path)
            else []
        )

    @staticmethod
    def _split(config_path: str) -> tuple[str, str]:
        group, _, name = _plain(config_path).rpartition("/")
        return group, name


@cache
def _structured(schema: type) -> DictConfig:
    """Return a dataclass as Hydra merges it, to be copied: five times as fast as to make it anew."""
    return OmegaConf.structured(schema)


def _plain(config_path: str) -> str:
    return config_path.removesuffix(".yaml")  # Hydra adds it to names that have no suffix
