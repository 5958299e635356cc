"""What a search may change: Hydra's sweep syntax read as dimensions, for a sampler instead of a list of jobs.

    training.lr='tag(log, interval(1e-5, 1e-3))'     any number in between, spread over orders of magnitude
    training.batch_size='int(interval(1, 8))'        any whole number in between, both ends included
    training.temperature='range(0.6, 1.1, 0.1)'      0.6, 0.7, …, 1.0: as everywhere in Hydra without its end
    algorithm='choice(grpo, maxrl)'                  names, without an order; so are a,b and shuffle(range(…))

A dimension keeps the text that it was read from, so that it can be written down and read again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain.campaign.sweep import CALL, enumerated, none_empty, parsed, split, swept
from retrain.config import grammar, values
from retrain.config.layers import CHOICES
from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DIGITS = 4  # of a number drawn from an interval: more tell nothing, and nobody reads them
FIXED = ("training.seed", "logging.", "resume.", "health.", "eval.", "backend.adapter_path")
_INTERVAL = re.compile(r"\binterval\s*\(")
_RANGE = re.compile(r"\brange\s*\(")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One key or group of a search. `choices` are its values as they are written; empty: a number in low … high."""

    name: str
    text: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None  # None: any number in between
    is_log: bool = False
    is_whole: bool = False

    @property
    def size(self) -> float:
        """How many values there are; inf: no end of them."""
        if self.choices:
            return len(self.choices)
        if self.low == self.high:
            return 1
        if self.step is None:
            return self.high - self.low + 1 if self.is_whole else math.inf
        return round((self.high - self.low) / self.step) + 1

    def all_values(self) -> list[Any]:
        """Return every value of a dimension that has an end of them."""
        if self.choices:
            return list(self.choices)
        step = self.step or 1
        return [self.rounded(self.low + index * step) for index in range(int(self.size))]

    def probes(self) -> list[Any]:
        """Return the values that stand for all: each choice, or both ends."""
        return list(self.choices) or [self.rounded(self.low), self.rounded(self.high)]

    def rounded(self, value: Any) -> Any:
        """Return a value as a run gets it: a choice as it is, a number with as many digits as anybody reads."""
        if self.choices:
            return value
        if self.is_whole:
            return round(value)
        if self.step is not None:
            return float(f"{value:.12g}")  # 0.6 + 0.2 is 0.8, not 0.7999999999999999
        scale = min(self.high - self.low, abs(value) or math.inf) if self.is_log else self.high - self.low
        short = round(value, DIGITS - 1 - math.floor(math.log10(scale)))
        return min(max(short, self.low), self.high)

    def setting(self, value: Any) -> str:
        """Return what sets a value on a command line."""
        return f"{self.name}={value if self.choices else repr(value)}"


def read(name: str, text: str, path: Path | None = None, arguments: Sequence[str] = ()) -> Dimension | None:
    """Read what stands right of a ``=``; None: it is one value, and nothing to be searched.

    Raises:
        ValueError: it looks like a sweep, and nothing can be searched in it; a hint may follow a semicolon.
    """
    call = CALL.fullmatch(text)
    is_list = call is None or call["name"] == "choice" or len(split(text)) > 1
    override = None
    if not is_list and (_INTERVAL.search(text) or _RANGE.search(text)):
        override = parsed(text)
        if not override.is_sweep_override():
            return None
    if override is not None and override.is_interval_sweep():
        found = _interval(name, text, override.value())
    elif override is not None and override.is_range_sweep() and not override.value().shuffle:
        found = _range(name, text, override, override.value())
    else:
        options = swept(name, text, path, arguments)
        if options is None:
            return None
        if "shuffle" in text:
            options = sorted(options)  # a sampler asks for no order, and the same seed gives the same trials
        found = _choice(name, text, none_empty(options))
    _refuse_fixed(name)
    if not found.choices and name in CHOICES:
        raise ValueError(f"{name} picks a group file by its name, not by a number; write choice(a,b)")
    if found.size < 2:
        raise ValueError("there is one value in it, so nothing is searched; set it without a sweep")
    return found


def of_list(name: str, items: Sequence[Any]) -> str:
    """Return the sweep that a list of a TOML's values stands for."""
    is_text = name in CHOICES or (name in KEYS and values.base_type(KEYS[name]) is str)
    return f"choice({','.join(str(i) if is_text and str(i).isidentifier() else grammar.hydra_text(i) for i in items)})"


def _refuse_fixed(name: str) -> None:
    if name == "training.seed":
        raise ValueError("a seed is what is repeated, not searched; campaign.seeds=[1,2,3] runs each trial with each")
    if name.startswith("eval."):
        raise ValueError("it changes how a trial is scored, not what it learns; set it for all trials")
    if name.startswith(FIXED):
        raise ValueError("no step of a run depends on it; set it for all trials")


def _interval(name: str, text: str, found: Any) -> Dimension:
    log = _is_log(found.tags)
    low, high = found.start, found.end
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("an end of it is not finite; write two numbers")
    if low > high:
        raise ValueError(f"it ends before it begins; write interval({high:g},{low:g})")
    if log and low <= 0:
        raise ValueError(
            f"a logarithm needs numbers above 0, and it begins at {low:g}; raise its start, or leave log out"
        )
    return Dimension(
        name=name, text=text, low=low, high=high, is_log=log, is_whole=isinstance(low, int) and isinstance(high, int)
    )


def _range(name: str, text: str, override: Any, found: Any) -> Dimension:
    if _is_log(found.tags):
        raise ValueError("a range has steps of one size, which log does not go with; write tag(log, interval(…))")
    numbers = sorted(float(each) for each in enumerated(override))
    numbers = [each for each in numbers if not math.isclose(each, found.stop)]  # 0.6 + 5 · 0.1 is below 1.1, in floats
    whole = all(isinstance(part, int) for part in (found.start, found.stop, found.step))
    return Dimension(
        name=name,
        text=text,
        low=int(numbers[0]) if whole else numbers[0],
        high=int(numbers[-1]) if whole else numbers[-1],
        step=abs(found.step),
        is_whole=whole,
    )


def _is_log(tags: Sequence[str]) -> bool:
    if unknown := sorted(set(tags) - {"log"}):
        raise ValueError(f"the tag {unknown[0]} has no effect; there is log: tag(log, interval(1e-5,1e-3))")
    return "log" in tags


def _choice(name: str, text: str, options: Sequence[str]) -> Dimension:
    key = KEYS.get(name)
    seen: dict[str, str] = {}
    for option in options:
        value = repr(grammar.parse(key, option)) if key is not None else grammar.unquoted(option)
        if value in seen:
            raise ValueError(f"{seen[value]} and {option} are the same value; name each once")
        seen[value] = option
    plain = CALL.fullmatch(text)
    is_plain = plain is not None and plain["name"] == "choice"
    return Dimension(name=name, text=text if is_plain else f"choice({','.join(options)})", choices=tuple(options))
