"""Hydra's sweep syntax: one command line becomes the command lines of many runs, as many as its values make.

    training.seed=1,2,3   algorithm=grpo,maxrl   training.lr='choice(1e-5,4e-5)'   training.max_steps='range(10,40,10)'
    algorithm='glob(maxrl*)'   training.lr='shuffle(1e-5,2e-5)'   training.temperature='sort(range(0.6,1.1,0.2))'

The jobs are those of Hydra's BasicSweeper, in its order: the last argument changes fastest. Values that are written out
(``a,b`` and ``choice(a,b)``) are cut from the text and arrive as typed, so that ``model.revision=1e5,12e4567`` stays
text; all other functions are read by Hydra's own parser. Flags (``--lr 1e-5``) never sweep.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.campaign.words import MULTIRUN, setting, words
from retrain.config.compose import library_of
from retrain.config.grammar import QUOTED
from retrain.config.layers import CHOICES
from retrain.config.origins import Origin
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.errors import Problem

MOST_RUNS = 10_000  # more than that is a typing error
CALL = re.compile(r"(?P<name>[a-z_]+)\s*\((?P<inside>.*)\)", re.DOTALL)
_SWEEPS = ("choice", "range", "interval", "glob", "shuffle", "sort", "tag")
_CASTS = ("int", "float", "str", "bool", "json_str")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def is_multirun(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Tell whether ``--multirun`` or ``-m`` is among the arguments, and return the others."""
    kept = [word for word in words(arguments) if word not in ([flag] for flag in MULTIRUN)]
    rest = list(itertools.chain(*kept))
    return len(rest) < len(arguments), rest


# --- jobs -------------------------------------------------------------------------------------------------------------


def expand(arguments: Sequence[str], path: Path | None = None) -> list[list[str]]:
    """Return the arguments of each job.

    Args:
        arguments: the command line after CONFIG, without ``--multirun``. `condition` and `campaign.KEY` never sweep.
        path: CONFIG, beside which ``glob(…)`` looks for group files too.

    Raises:
        ConfigError: sweeps that Hydra cannot read or that need another sweeper, and far too many jobs.
    """
    axes: dict[str, tuple[int, list[list[str]]]] = {}  # by what is set: the first place decides the order of the jobs,
    problems = []  #                                     the last one the value, and where it stands in each job
    for at, word in enumerate(words(arguments)):
        name, _ = setting(word)
        try:
            choices = alternatives(word, path, arguments)
        except ValueError as error:
            problems.append(problem_with(word, str(error)))
            continue
        axes[f"{name} {at}" if name == "--config-dir" else name] = (at, choices)
    if problems:
        raise ConfigError(problems)
    number = math.prod(len(choices) for _, choices in axes.values())
    if number > MOST_RUNS:
        raise ConfigError(f"this sweep makes {number} runs, at most {MOST_RUNS} are allowed; sweep fewer values")
    places = sorted(range(len(axes)), key=[at for at, _ in axes.values()].__getitem__)
    jobs = itertools.product(*(choices for _, choices in axes.values()))
    return [list(itertools.chain(*(job[place] for place in places))) for job in jobs]


def alternatives(word: list[str], path: Path | None, arguments: Sequence[str]) -> list[list[str]]:
    """Return what a word becomes in each job that differs by it.

    Raises:
        ValueError: it looks like a sweep, and is none.
    """
    name, equals, text = word[0].partition("=")
    bare = name.strip().lstrip("+")
    if not equals or name.startswith(("-", "~")) or bare == "condition" or bare.startswith("campaign."):
        return [word]
    found = swept(bare, text.strip(), path, arguments)
    return [word] if found is None else [[f"{name}={value}"] for value in found]


def swept(name: str, text: str, path: Path | None, arguments: Sequence[str]) -> list[str] | None:
    """Return the values that a text sweeps over; None: it is one value."""
    call = CALL.fullmatch(text)
    if call is None or call["name"] not in (*_SWEEPS, *_CASTS) or len(split(text)) > 1:
        found = split(text)
        return none_empty(found) if len(found) > 1 else None
    if call["name"] == "choice":
        return none_empty(split(call["inside"]))
    try:
        override = parsed(text)
    except ValueError:
        if call["name"] in _CASTS:
            return None  # a text that looks like one
        raise
    if not override.is_sweep_override():
        return None
    if override.is_interval_sweep():
        raise ValueError(
            "interval(…) has no list of values, which hydra/sweeper=basic needs; "
            "name them: choice(1e-5,4e-5) or range(1,5); or search them: hydra/sweeper=optuna"
        )
    if call["name"] == "glob":
        return none_empty(globbed(override, name, path, arguments))
    return none_empty(enumerated(override))


def split(text: str) -> list[str]:
    """Cut a text at the commas that are not inside of quotes, brackets or ``${…}``, as Hydra's grammar does.

    Raises:
        ValueError: there are commas, and a bracket is not closed.
    """
    parts, start, at, closing = [], 0, 0, list[str]()
    fresh = True  # a value begins here: a quote opens one only there, so that it's stays one
    while at < len(text):
        character = text[at]
        quoted = QUOTED.match(text, at) if fresh else None
        if quoted:
            at = quoted.end()
            fresh = False
            continue
        if character == "\\":
            at += 1
        elif character in _PAIRS:
            closing.append(_PAIRS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            parts.append(text[start:at].strip())
            start = at + 1
        fresh = character in ",([{:" or (fresh and character.isspace())
        at += 1
    if closing and "," in text:
        raise ValueError(f"{closing[-1]} is missing, so that it is not clear where its values end; or quote each value")
    return [*parts, text[start:].strip()]


def none_empty(found: list[str]) -> list[str]:
    if not found or "" in found:
        raise ValueError("there is an empty value between its commas; quote a text with commas: key=\"'a,b'\"")
    return found


def parsed(text: str) -> Any:
    """Return what Hydra's parser makes of a value.

    Raises:
        ValueError: it cannot read that.
    """
    from hydra import version
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    version.setbase("1.3")
    try:
        return OverridesParser.create().parse_override(f"x={text}")
    except HydraException as error:
        raise ValueError(f"Hydra cannot read it: {str(error).splitlines()[0]}") from error


def enumerated(override: Any) -> list[str]:
    """Return the values of a sweep that has a list of them, as text.

    Raises:
        ValueError: it has none, such as a range without a step.
    """
    from hydra.errors import HydraException

    try:
        found = list(itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1))
        if override.is_range_sweep():  # 0.6 + 0.2 is 0.8, not 0.7999999999999999
            found = [repr(float(f"{float(text):.12g}")) if "." in text else text for text in found]
    except (HydraException, ValueError) as error:
        raise ValueError(f"Hydra cannot read it: {str(error).splitlines()[0]}") from error
    if not found:
        raise ValueError("this range is empty; range(START,STOP,STEP) ends before STOP")
    return found


def globbed(override: Any, group: str, path: Path | None, arguments: Sequence[str]) -> list[str]:
    """Return the options of a group that a glob matches."""
    if group not in CHOICES:
        raise ValueError(f"glob(…) picks group files, and {group} is no group; groups: {', '.join(CHOICES)}")
    cwd = Path.cwd()
    given = [cwd / text for name, text in map(setting, words(arguments)) if name == "--config-dir"]
    known = library_of(path, given, cwd).options(group)
    found = override.value().filter(known)
    if not found:
        raise ValueError(f"no group file matches; {group} has: {', '.join(known)}")
    return found


def problem_with(word: Sequence[str], message: str) -> Problem:
    """Describe what is wrong with a word of the command line; a hint may follow a semicolon."""
    fault, _, hint = message.partition("; ")
    return Origin(kind="command line", text=" ".join(word)).problem(fault, hint, setting(word)[0])


# --- hydra/launcher and hydra/sweeper ---------------------------------------------------------------------------------


@dataclass
class HydraChoice:
    """What the command line says about Hydra itself; empty: nothing."""

    launcher: str = ""
    sweeper: str = ""
    launcher_options: dict[str, Any] = field(default_factory=dict)
    sweeper_options: dict[str, Any] = field(default_factory=dict)


def take_hydra(arguments: Sequence[str]) -> tuple[HydraChoice, list[str]]:
    """Take ``hydra/launcher=joblib``, ``hydra.sweeper.n_trials=20`` off the arguments; return both.

    Raises:
        ConfigError: other settings of Hydra's, which have no effect here.
    """
    choice, rest, problems = HydraChoice(), list[str](), []
    for word in words(arguments):
        name, text = setting(word)
        if name in ("hydra/sweeper/sampler", "hydra.sweeper.sampler"):  # its options stand beside its name
            name = "hydra.sweeper.sampler.name"
        part = re.fullmatch(r"hydra(?:/(launcher|sweeper)|\.(launcher|sweeper)\.(\w[\w.]*))", name)
        if not re.match(r"hydra[./]", name):
            rest += word
        elif part is None or not text:
            known = "hydra/launcher=NAME, hydra/sweeper=NAME, hydra.launcher.KEY=VALUE, hydra.sweeper.KEY=VALUE"
            problems.append(problem_with(word, f"this setting of Hydra's has no effect in retrain; there are {known}"))
        elif part[1]:
            setattr(choice, part[1], text)
        else:
            table = choice.launcher_options if part[2] == "launcher" else choice.sweeper_options
            *tables, leaf = part[3].split(".")
            for entry in tables:
                table = table.setdefault(entry, {})
            table[leaf] = _plain_value(text)
    if problems:
        raise ConfigError(problems)
    return choice, rest


def _plain_value(text: str) -> Any:
    try:
        found = parsed(text)
    except ValueError:
        return text
    return text if found.is_sweep_override() else found.value()
