"""What backends and engines say of themselves before they are made: what they need, take, heed and cost."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrain.config.schema import RunConfig

MONEY = "cost/money"
"""The metric of a step in which a backend with prices says what the step cost."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run, or a step of it, has used or will use, in tokens."""

    prompt: float  # of prompts, once for each group
    sampled: float  # of completions, those of evaluations too
    trained: float  # of prompts and completions in forward and backward passes


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a backend takes for a million tokens, in one currency.

    >>> Prices(currency="USD", prompt=0.1, sampled=0.4, trained=1.0).of(Usage(prompt=0, sampled=5e6, trained=1e6))
    3.0
    """

    currency: str  # as it is shown behind a number: "USD"
    prompt: float
    sampled: float
    trained: float

    def of(self, usage: Usage) -> float:
        """Return what a usage costs."""
        spent = self.prompt * usage.prompt + self.sampled * usage.sampled + self.trained * usage.trained
        return spent / 1e6


PARTS: dict[str, tuple[str, ...]] = {
    "data": ("datasets",),
    "tokenizer": ("torch", "transformers", "peft"),
    "reward": (),
    "credit": ("torch",),
}
"""What a job has beside its backend, and the modules that making it takes. The credit is baseline and transforms."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a backend or an engine needs, and what it does not heed: known before it is made.

    modules: what has to be installed for it; extra: of this package, that installs them
    devices: kinds that it runs on, "cpu" and "cuda" (also ROCm, which torch calls by that name); empty: not said
    ignores: dotted config keys that have no effect with it; all others are honoured
    """

    modules: tuple[str, ...] = ()
    extra: str = ""
    devices: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()

    @property
    def needed(self) -> list[str]:
        """All modules that have to be installed."""
        return list(self.modules)

    @property
    def absent(self) -> list[str]:
        """Those that are not installed here. None of them is imported."""
        return [module for module in self.needed if importlib.util.find_spec(module) is None]


@dataclass(frozen=True, kw_only=True)
class EngineCapabilities(Needs):
    """What an engine says of itself.

    gives: what it knows of each token beside its log-probability: "entropies"
    """

    gives: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Capabilities(Needs):
    """What a backend says of itself. Its modules are those beside what its parts need.

    parts:           what of a job is made for it, of `PARTS`; data and reward together give a held-out part too
    trains:          "lora" (an adapter), "full" (every weight); empty: not said
    resume:          how exactly an interrupted run goes on, in words
    options:         what `[backend.options]` may hold: a dataclass; None: nothing
    on_this_machine: the weights are trained in this machine's memory, of which `retrain.estimate` knows, and
                     `inference.engine` samples there
    prices:          what it takes for tokens, by the config; None, or returning None: it has no price. A backend with
                     prices says in each line of metrics what was spent since the last one, as `MONEY`
    """

    parts: frozenset[str] = frozenset(PARTS)
    trains: tuple[str, ...] = ()
    resume: str = ""
    options: Callable[..., Any] | None = None
    on_this_machine: bool = False
    prices: Callable[[RunConfig], Prices | None] | None = None

    def __post_init__(self) -> None:
        if unknown := self.parts - set(PARTS):
            raise ValueError(f"a job has no {', '.join(sorted(unknown))}; its parts: {', '.join(PARTS)}")
        if "credit" in self.parts and "tokenizer" not in self.parts:
            raise ValueError("credit needs a tokenizer: planning phrases are found in text")

    @property
    def needed(self) -> list[str]:
        """All modules that have to be installed."""
        of_parts = [module for part, modules in PARTS.items() if part in self.parts for module in modules]
        return list(dict.fromkeys([*of_parts, *self.modules]))

    def price(self, config: RunConfig) -> Prices | None:
        """Return what tokens cost with this config; None: the backend has no price."""
        return self.prices(config) if self.prices else None
