"""A search: which values a campaign tries, how many, and who proposes them. Says what is wrong; starts nothing.

    [campaign]
    sweeper = "optuna"
    sweeper_options = { n_trials = 20, direction = "maximize", sampler = { name = "tpe", seed = 1 } }
    [campaign.space]
    "training.lr" = "tag(log, interval(1e-5, 1e-3))"

A trial is one configuration. It runs with each seed of the campaign, and its value is the mean of `campaign.metric` at
the last step. Optuna itself is not imported here.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from retrain.campaign import space
from retrain.errors import ConfigError, Problem, nearest, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.campaign.space import Dimension

NAME = "optuna"
DIRECTIONS = ("maximize", "minimize")
OPTIONS: dict[str, type] = {"n_trials": int, "direction": str, "study_name": str, "storage": str, "n_jobs": int}
SAMPLERS: dict[str, dict[str, type]] = {  # with what they take, beside a seed
    "tpe": {
        "n_startup_trials": int,
        "n_ei_candidates": int,
        "prior_weight": float,
        "multivariate": bool,
        "group": bool,
        "constant_liar": bool,
    },
    "random": {},
    "grid": {},
}
ELSEWHERE = {  # what users of hydra-optuna-sweeper may look for here
    "params": "write what is searched as an override of its own: training.lr='interval(1e-5,1e-3)'",
    "search_space": "write what is searched as an override of its own: training.lr='interval(1e-5,1e-3)'",
    "space": "it is a key of [campaign] itself: [campaign.space]",
    "max_failure_rate": "a failed trial counts as one of n_trials, and the others go on",
}
STORAGE = "study.db"  # in the campaign's directory
TRIALS = 20
SEED = 42


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search, read."""

    space: tuple[Dimension, ...]
    n_trials: int = TRIALS
    direction: str = "maximize"
    sampler: str = "tpe"
    seed: int = SEED
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    study_name: str = ""
    storage: str = ""  # "": STORAGE in the campaign's directory

    @property
    def size(self) -> float:
        """How many configurations there are; inf: no end of them."""
        return math.prod(dimension.size for dimension in self.space)

    def as_keys(self) -> dict[str, Any]:
        """Return it as keys of `[campaign]`, with nothing left to a default."""
        options = {
            "n_trials": self.n_trials,
            "direction": self.direction,
            "sampler": {"name": self.sampler, "seed": self.seed, **self.sampler_options},
            "study_name": self.study_name,
            "storage": self.storage,
        }
        written = {dimension.name: dimension.text for dimension in self.space}
        return {"sweeper": NAME, "sweeper_options": options, "space": written}

    @classmethod
    def of(cls, campaign: Mapping[str, Any]) -> Search | None:
        """Read the search of a campaign that has started; None: it has conditions instead."""
        if campaign.get("sweeper") != NAME:
            return None
        dimensions = (space.read(name, text) for name, text in campaign["space"].items())
        return read_options([each for each in dimensions if each], campaign["sweeper_options"])


def read_options(dimensions: Sequence[Dimension], options: Mapping[str, Any]) -> Search:
    """Read `sweeper_options`.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    problems = [*_option_problems(options)]
    if problems:
        raise ConfigError(problems)
    given = options.get("sampler", {})
    sampler: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    size = math.prod(dimension.size for dimension in dimensions)
    found = Search(
        space=tuple(dimensions),
        n_trials=options.get("n_trials", int(min(TRIALS, size))),
        direction=options.get("direction", DIRECTIONS[0]),
        sampler=sampler.pop("name", "tpe"),
        seed=sampler.pop("seed", SEED),
        sampler_options=sampler,
        study_name=str(options.get("study_name", "")),
        storage=absolute(str(options.get("storage", ""))),
    )
    if found.sampler == "grid" and (endless := [each.name for each in dimensions if math.isinf(each.size)]):
        message = f"the sampler grid tries every value, and {', '.join(endless)} has no end of them"
        raise ConfigError(_problem(message, "range(START,STOP,STEP) or choice(a,b), or sampler = tpe"))
    if dimensions and found.n_trials > size:
        message = f"n_trials = {found.n_trials}, and the space has {size:.0f} configurations"
        raise ConfigError(_problem(message, f"n_trials={size:.0f} tries each of them once"))
    return found


def absolute(storage: str) -> str:
    """Return a storage so that it is found from every folder."""
    prefix = "sqlite:///"
    if not storage.startswith(prefix) or storage.startswith(f"{prefix}file:"):
        return storage
    return prefix + str(Path(storage.removeprefix(prefix)).absolute())


def missing() -> Problem | None:
    """Return what keeps a search from being made: Optuna is not installed."""
    if importlib.util.find_spec("optuna") is not None:
        return None
    return Problem(
        message="the sweeper optuna needs optuna, not installed here",
        hint='pip install "retrain[optuna]"',
        key="campaign.sweeper",
    )


def dimensions(
    given: Mapping[str, Any], path: Path, arguments: Sequence[str]
) -> tuple[list[Dimension], dict[str, str]]:
    """Read `[campaign.space]`; return it with what is wrong with its entries, by their names."""
    found, wrong = list[space.Dimension](), dict[str, str]()
    for name, value in given.items():
        text = space.of_list(name, value) if isinstance(value, list) else str(value)
        try:
            dimension = space.read(name, text, path, arguments)
            if dimension is None:
                raise ValueError("it is one value, and nothing to be searched; interval(…), range(…), choice(…)")
            found.append(dimension)
        except ValueError as error:
            wrong[name] = str(error)
    return found, wrong


def _problem(message: str, hint: str = "", key: str = "campaign.sweeper_options") -> Problem:
    return Problem(message=message, hint=hint, key=key)


def _option_problems(options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in options.items():
        if name == "sampler":
            yield from _sampler_problems({"name": value} if isinstance(value, str) else value)
        elif name in ELSEWHERE:
            yield _problem(f"the sweeper optuna has no option {name}", ELSEWHERE[name])
        elif name not in OPTIONS:
            yield _unknown(f"the sweeper optuna has no option {name}", name, ["sampler", *OPTIONS])
        elif OPTIONS[name] is int and not (_is(value, int) and value >= 1):
            yield _problem(f"{name} = {value} is not a whole number of at least 1", f"{name}=20")
    direction = options.get("direction", "maximize")
    if direction not in DIRECTIONS:
        yield replace(
            unknown_name(kind="direction", name=str(direction), known=DIRECTIONS), key="campaign.sweeper_options"
        )
    storage = str(options.get("storage", ""))
    if storage and "://" not in storage:
        yield _problem(f'storage = "{storage}" is not a URL', "sqlite:///study.db")
    elif storage and urlsplit(storage).password:
        yield _problem(
            "storage holds a password, which the campaign's files would keep",
            "leave it out of the URL: PGPASSWORD, ~/.pgpass or ~/.my.cnf give it to the database's own client",
        )


def _sampler_problems(sampler: Any) -> Iterator[Problem]:
    name = sampler.get("name", "tpe") if isinstance(sampler, dict) else sampler
    if not isinstance(name, str) or name not in SAMPLERS:
        yield replace(
            unknown_name(kind="sampler", name=str(name), known=list(SAMPLERS)), key="campaign.sweeper_options"
        )
        return
    known = {"seed": int, **SAMPLERS[name]}
    for option, value in sampler.items():
        if option == "name":
            continue
        if option not in known:
            yield _unknown(f"the sampler {name} has no option {option}", option, list(known))
        elif not _is(value, known[option]) or (known[option] in (int, float) and value < 0):
            kind = {int: "a whole number of at least 0", float: "a number of at least 0", bool: "true or false"}
            yield _problem(f"sampler.{option} = {value} is not {kind[known[option]]}")


def _is(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if kind is float else kind)


def _unknown(message: str, name: str, known: Sequence[str]) -> Problem:
    near = nearest(name, known)
    return _problem(message + (f"; did you mean {near}?" if near else ""), ", ".join(known))
