"""A config on a machine: its parts are made once, for all checks and all conditions of a campaign that share them."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from retrain.doctor.finding import NotKnownError
from retrain.errors import RetrainError
from retrain.estimate import gigabytes
from retrain.events import Emit, ignore

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrain.config import Composed
    from retrain.config.schema import RunConfig
    from retrain.data import LoadedData
    from retrain.doctor.machine import Machine
    from retrain.doctor.probe import Probed
    from retrain.hub import Source
    from retrain.model import ChatTokenizer
    from retrain.types import HeldOut, Reward

T = TypeVar("T")

OF_DATA = ("data", "eval", "training")
"""Sections that the problems of a run depend on; of `[training]` it is `max_examples`."""
OF_PROBE = ("model", "lora", "algorithm", "training", "backend", "inference", "data", "reward", "eval")


@dataclass
class Shared:
    """What was made, by what it was made from; errors are kept as well. `opened` ends the worker processes."""

    made: dict[str, Any] = field(default_factory=dict)
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass
class Subject:
    """One config, the machine it should run on, and what both are asked for."""

    composed: Composed
    machine: Machine
    shared: Shared
    runs: int = 1  # of a campaign: how many go to the same place
    emit: Emit = ignore

    @property
    def config(self) -> RunConfig:
        return self.composed.config

    @property
    def fetch(self) -> str:
        """The command that downloads what the config reads."""
        return f"retrain fetch {self.composed.path or 'CONFIG.toml'}"

    def _make(self, what: str, sections: tuple[str, ...], make: Callable[[], T]) -> T:
        """Return what `make` returns; what it raises is raised again when it is asked for again."""
        key = f"{what} {[asdict(getattr(self.config, section)) for section in sections]}"
        if key not in self.shared.made:
            try:
                self.shared.made[key] = make()
            except RetrainError as error:
                self.shared.made[key] = error
        found = self.shared.made[key]
        if isinstance(found, RetrainError):
            raise found
        return found

    @cached_property
    def missing_extras(self) -> bool:
        """Whether something is not installed that the config needs."""
        from retrain.run import require_packages

        try:
            require_packages(self.composed)
        except RetrainError:
            return True
        return False

    def require_imports(self) -> None:
        """Raise `NotKnownError` where loading anything would fail for a reason that another check has given."""
        if self.missing_extras:
            raise NotKnownError("needs packages that are not installed")
        if self.machine.torch.broken:
            raise NotKnownError("torch cannot be imported")

    def load_data(self) -> LoadedData:
        """Load the problems, as a run does.

        Raises:
            ConfigError: what is wrong with them.
        """
        self.require_imports()
        from retrain import data

        return self._make("data", OF_DATA, lambda: data.load(self.config, self.composed.places))

    def locate_model(self) -> Source:
        """Find the model's folder, or make sure that the hub or its local cache has it.

        Raises:
            ConfigError: it is nowhere, gated, or out of reach.
        """
        self.require_imports()
        from retrain import hub

        return self._make("place of the model", ("model",), lambda: hub.locate(self.config.model))

    def load_tokenizer(self) -> ChatTokenizer:
        """Load the tokenizer, as a run does.

        Raises:
            ConfigError: it is not to be had.
        """
        known("the model was not found", self.locate_model)
        from retrain.model import load_tokenizer

        return self._make("tokenizer", ("model", "data", "training"), lambda: load_tokenizer(self.config))

    def make_reward(self) -> Reward:
        """Make the reward of training.

        Raises:
            ConfigError: what is wrong with it.
        """
        default = self.data.reward
        from retrain import rewards

        def make() -> Reward:
            made = rewards.build(self.config, default, self.composed.places)
            self.shared.opened.callback(made.close)
            return made

        return self._make("reward", ("data", "reward", "training"), make)

    def prepare_held_out(self) -> HeldOut | None:
        """Make what `[eval]` asks for.

        Raises:
            ConfigError: what is wrong with its reward.
        """
        data, reward = self.data, self.reward
        from retrain import evaluate

        def make() -> HeldOut | None:
            made = evaluate.prepare(self.config, data, reward, self.composed.places)
            if made is not None:
                self.shared.opened.callback(made.reward.close)
            return made

        return self._make("held out", (*OF_DATA, "reward"), make)

    def run_probe(self) -> Probed:
        """Load the model and sample.

        Raises:
            RetrainError: the config does not run.
            NotKnownError: the model would have to be downloaded first.
        """
        known("the model was not found", self.locate_model)
        from retrain import hub
        from retrain.doctor.sampling import probe

        wanted = self.config.model
        if hub.model_folder(wanted) is None and (missing := hub.survey_model(wanted).missing_bytes):
            raise NotKnownError(f"{gigabytes(missing)} of the model are not here; first: {self.fetch}")

        return self._make("probe", OF_PROBE, lambda: probe(self.composed, self.emit))

    @property
    def data(self) -> LoadedData:
        """The problems, for a check of something else: where they cannot be loaded it has nothing to say."""
        return known("the problems could not be loaded", self.load_data)

    @property
    def reward(self) -> Reward:
        """The reward of training, likewise."""
        return known("the reward could not be made", self.make_reward)

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer, likewise."""
        return known("the tokenizer could not be loaded", self.load_tokenizer)

    @property
    def probed(self) -> Probed:
        """What the probe found, likewise."""
        return known("the probe did not get so far", self.run_probe)


def known(otherwise: str, make: Callable[[], T]) -> T:
    """Return what `make` returns.

    Raises:
        NotKnownError: it cannot be had; the check of it says why.
    """
    try:
        return make()
    except RetrainError as error:
        raise NotKnownError(otherwise) from error
