"""The trials of a search, in Optuna's storage: what is tried next, and what came of it. The one home of Optuna.

    ask   a sampler looks at all trials so far ──▶ values, rounded ──▶ a running trial in the storage, at once and whole
    tell  the value of a trial, or that it failed, once

The sampler works on a copy of the study in memory, so that nothing half-made is ever in the storage, and it is a new
one for each trial, with a seed made of the search's seed and the number of trials: a campaign that was killed and goes
on proposes what it would have proposed.
"""

from __future__ import annotations

import itertools
import math
import random
import sqlite3
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.distributions import check_distribution_compatibility as check_compatibility
from optuna.trial import TrialState, create_trial

from retrain.campaign.search import STORAGE
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from retrain.campaign.search import Search
    from retrain.campaign.space import Dimension

DRAWS = 10  # of a sampler that proposes what was tried already
CAMPAIGN, LABEL = "retrain.campaign", "retrain.trial"  # attributes of our trials in a study that others may share

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial of this campaign: its label and its values by the dimensions' names."""

    label: str
    values: Mapping[str, Any]


class Trials:
    """The study of one campaign."""

    def __init__(self, root: Path, search: Search, identity: str, *, side_by_side: bool = False) -> None:
        """Open the study, which is made where there is none.

        Args:
            root: the campaign's directory.
            search: what is searched.
            identity: tells this campaign's trials from others in the same study.
            side_by_side: trials are asked for while others run.

        Raises:
            ConfigError: the storage cannot be used, or its study is another search.
        """
        self._search, self._identity, self._side_by_side = search, identity, side_by_side
        self._distributions = {dimension.name: _distribution(dimension) for dimension in search.space}
        self._study = _opened(root / STORAGE, search)
        self._check_study()

    def _check_study(self) -> None:
        """Raise ConfigError where the trials of an older study do not fit."""
        wanted = self._search.direction
        found = self._study.direction.name.lower()
        if found != wanted:
            raise ConfigError(f'the study "{self._search.study_name}" is to {found}, not to {wanted}', _ANOTHER)
        for trial in self._study.get_trials(deepcopy=False):
            for name, distribution in trial.distributions.items():
                try:
                    check_compatibility(distribution, self._distributions.get(name, distribution))
                except ValueError as error:
                    message = f'the study "{self._search.study_name}" has searched another {name}: {error}'
                    raise ConfigError(message, _ANOTHER) from error

    def asked(self) -> list[Trial]:
        """Return the trials of this campaign, in order."""
        return [Trial(label=t.user_attrs[LABEL], values=self._typed(t.params)) for t in self._ours()]

    def ask(self, label_of: Any) -> Trial:
        """Propose a trial, and write it down as running. `label_of` makes a label of its number and values."""
        before = [trial.values for trial in self.asked()]
        values = self._proposed(len(before), before)
        label = label_of(len(before), values)
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=values,
                distributions=self._distributions,
                user_attrs={CAMPAIGN: self._identity, LABEL: label},
            )
        )
        return Trial(label=label, values=values)

    def tell(self, label: str, value: float | None) -> None:
        """Say what came of a trial; None: it failed. What was said already stays as it is.

        A trial that failed and was run again is a further one of the study, which never changes what it was told.
        """
        ours = [trial for trial in self._ours(repeated=True) if trial.user_attrs[LABEL] == label]
        waiting = next((trial for trial in ours if trial.state == TrialState.RUNNING), None)
        if waiting is not None and value is None:
            self._study.tell(waiting.number, state=TrialState.FAIL)
        elif waiting is not None:
            self._study.tell(waiting.number, value)
        elif value is not None and all(trial.state == TrialState.FAIL for trial in ours):
            attributes = {CAMPAIGN: f"{self._identity} again", LABEL: label}
            self._study.add_trial(
                create_trial(
                    params=ours[0].params, distributions=self._distributions, value=value, user_attrs=attributes
                )
            )

    def _ours(self, *, repeated: bool = False) -> list[FrozenTrial]:
        known = (self._identity, f"{self._identity} again")[: 2 if repeated else 1]
        return [t for t in self._study.get_trials(deepcopy=False) if t.user_attrs.get(CAMPAIGN) in known]

    def _typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {dimension.name: values[dimension.name] for dimension in self._search.space}

    # --- what is tried next -------------------------------------------------------------------------------------------

    def _proposed(self, number: int, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the values of the next trial, which no trial of this campaign has had, as far as that is possible."""
        if self._search.sampler == "grid":
            return self._grid()[number]
        values = {}
        for draw in range(DRAWS):
            values = self._sampled(number, draw)
            if values not in before:
                return values
        if math.isfinite(self._search.size):
            return next(values for values in self._grid() if values not in before)
        return values

    def _sampled(self, number: int, draw: int) -> dict[str, Any]:
        sampler = self._sampler(f"{self._search.seed} {number} {draw}")
        copy = optuna.create_study(direction=self._search.direction, sampler=sampler)
        copy.add_trials(self._study.get_trials(deepcopy=False))
        found = copy.ask(fixed_distributions=self._distributions).params
        return {each.name: each.rounded(found[each.name]) for each in self._search.space}

    def _sampler(self, seed: str) -> BaseSampler:
        number = random.Random(seed).getrandbits(32)  # noqa: S311  a seed, no secret
        if self._search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=number)
        options = {"constant_liar": self._side_by_side, **self._search.sampler_options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # chosen by name
            return optuna.samplers.TPESampler(seed=number, **options)

    def _grid(self) -> list[dict[str, Any]]:
        """Return all configurations, shuffled: the first ones are then no corner of the space."""
        names = [dimension.name for dimension in self._search.space]
        points = itertools.product(*(dimension.all_values() for dimension in self._search.space))
        found = [dict(zip(names, point, strict=True)) for point in points]
        random.Random(self._search.seed).shuffle(found)  # noqa: S311
        return found


_ANOTHER = "give the search a study_name of its own"


def _opened(file: Path, search: Search) -> optuna.Study:
    """Open a study, made where there is none: in the search's storage, else in a file.

    Raises:
        ConfigError: the storage cannot be used.
    """
    connect = partial(sqlite3.connect, file.resolve())  # a URL cannot name every path
    try:
        storage = search.storage or optuna.storages.RDBStorage(
            f"sqlite:///{STORAGE}", engine_kwargs={"creator": connect}
        )
        return optuna.create_study(
            storage=storage, study_name=search.study_name, direction=search.direction, load_if_exists=True
        )
    except Exception as error:  # databases and their drivers raise anything
        where = search.storage or file
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"the study cannot be opened in {where}: {text[0]}", "sweeper_options storage = a URL of Optuna's"
        ) from error


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension in Optuna's words."""
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        step = 1 if dimension.step is None else int(dimension.step)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log, step=dimension.step)
