"""Everything that a config chooses by name: built-in table, entry point, or ``pkg.mod:attr``.

    [reward] type = "math"                  the table below
    [reward] type = "strict"                an installed package's entry point in the group ``retrain.rewards``
    [reward] type = "my_rewards:strict"     a module beside the TOML, in the working directory or installed

`describe` and `check` look a name up without importing its module; `resolve` imports it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from retrain.errors import ConfigError, Problem, nearest, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from importlib.metadata import EntryPoints

    from retrain.capabilities import Capabilities


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named choice: where its code is, what it does in a line, and its option dataclass (import-light) if any."""

    target: str  # "package.module:attribute"
    summary: str
    options: str = ""  # "package.module:Dataclass"
    requires: frozenset[str] = frozenset()  # what it has to be given: "entropies", "planning_mask", "uncertainty"
    formula: str = ""  # baselines and transforms: what it computes, in a line of maths, for `explain`
    capabilities: str = ""  # backends and engines: where they say what they need, import-light


MODES: dict[str, tuple[str, ...]] = {
    "none": (),
    "gtpo": ("gtpo",),
    "gtpo_hicra": ("gtpo", "hicra"),
    "gtpo_sepa": ("sepa", "gtpo"),
    "entropy_mask": ("entropy_mask",),
    "gtpo_entropy_mask": ("gtpo", "entropy_mask"),
}
"""`transform_mode` → the transforms it stands for, in the order in which they act. No mode name is parsed anywhere."""

BUILTIN: dict[str, dict[str, Entry]] = {
    "mode": {
        name: Entry(target="", summary=" then ".join(transforms) or "one advantage for all tokens of a completion")
        for name, transforms in MODES.items()
    },
    "baseline": {
        "grpo": Entry(
            target="retrain.advantages.baselines:Grpo",
            summary="reward minus the group's mean",
            formula="A = r − mean(group)",
        ),
        "maxrl": Entry(
            target="retrain.advantages.baselines:MaxRl",
            summary="that, divided by the group's mean: rare successes count more",
            formula="A = (r − m) / (m + 1e-6),  m = mean(group)",
        ),
        "rloo": Entry(
            target="retrain.advantages.baselines:Rloo",
            summary="reward minus the mean of the group's other completions",
            formula="A = r − mean(the group's other completions)",
        ),
        "reinforce_pp": Entry(
            target="retrain.advantages.baselines:ReinforcePp",
            summary="grpo, then normalised over the batch",
            formula="A = r − mean(group), then (A − mean(batch)) / (std(batch) + 1e-8)",
        ),
    },
    "transform": {
        "gtpo": Entry(
            target="retrain.advantages.gtpo:Gtpo",
            summary="spend a completion's advantage where the policy was uncertain",
            options="retrain.config.schema:Gtpo",
            requires=frozenset({"uncertainty"}),
            formula="A_t = A_t · max(0, 1 + {beta:g}·(H_t / mean(H) − 1))",
        ),
        "hicra": Entry(
            target="retrain.advantages.hicra:Hicra",
            summary="add to the advantage of planning tokens",
            options="retrain.config.schema:Hicra",
            requires=frozenset({"planning_mask"}),
            formula="A_t = A_t + {alpha:g}·|A_t| on planning tokens",
        ),
        "sepa": Entry(
            target="retrain.advantages.sepa:Sepa",
            summary="even out the uncertainty of execution tokens, more and more; what follows reads it",
            options="retrain.config.schema:Sepa",
            requires=frozenset({"planning_mask", "uncertainty"}),
            formula="H_t = λ·mean(H on execution tokens) + (1 − λ)·H_t on execution tokens",
        ),
        "entropy_mask": Entry(
            target="retrain.advantages.entropy_mask:EntropyMask",
            summary="keep the advantage of a group's most uncertain tokens only",
            options="retrain.config.schema:EntropyMask",
            requires=frozenset({"uncertainty"}),
            formula="A_t = A_t on the {rho:.0%} of the group's tokens with the largest H_t, else 0",
        ),
        "whiten": Entry(
            target="retrain.advantages.whiten:Whiten",
            summary="mean 0 and deviation 1 over all tokens of the batch",
            options="retrain.config.schema:Whiten",
            formula="A_t = (A_t − mean(batch)) / (std(batch) + 1e-8)",
        ),
        "clip": Entry(
            target="retrain.advantages.clip:Clip",
            summary="bound every token's advantage",
            options="retrain.config.schema:Clip",
            formula="A_t = clip(A_t, −{max:g}, {max:g})",
        ),
    },
    "signal": {
        "surprisal": Entry(
            target="retrain.advantages.signals:surprisal",
            summary="−log p of the sampled token, at most 50 nats",
            formula="H_t = −log p_t",
        ),
        "predictive_variance": Entry(
            target="retrain.advantages.signals:predictive_variance",
            summary="p(1 − p) of the sampled token",
            formula="H_t = p_t·(1 − p_t)",
        ),
        "shannon_entropy": Entry(
            target="retrain.advantages.signals:shannon_entropy",
            summary="entropy over the whole vocabulary",
            requires=frozenset({"entropies"}),
            formula="H_t = −Σ p ln p over the vocabulary",
        ),
    },
    "detector": {
        "regex": Entry(
            target="retrain.advantages.planning:RegexDetector",
            summary="phrases such as “let me check”, matched on the decoded text",
        ),
    },
    "backend": {
        "local": Entry(
            target="retrain.backends.local:LocalBackend",
            summary="TRL and PEFT on this machine's CPU or GPU",
            options="retrain.backends.options:LocalOptions",
            capabilities="retrain.backends.options:LOCAL",
        ),
    },
    "engine": {
        "pytorch": Entry(
            target="retrain.engines.pytorch:PytorchEngine",
            summary="in process, on the training weights or a merged copy",
            capabilities="retrain.engines.options:PYTORCH",
        ),
    },
    "data": {
        "math": Entry(
            target="retrain.data.hub:load_math", summary="EleutherAI/hendrycks_math: 7 500 competition problems"
        ),
        "gsm8k": Entry(target="retrain.data.hub:load_gsm8k", summary="openai/gsm8k: grade-school word problems"),
        "arithmetic": Entry(target="retrain.data.arithmetic:load", summary="generated sums, no download"),
        "jsonl": Entry(target="retrain.data.jsonl:load", summary="a file of your own, one JSON object a line"),
        "hf": Entry(target="retrain.data.hub:load_hf", summary="any data set of the Hugging Face hub"),
    },
    "reward": {
        "match": Entry(target="retrain.rewards.match:Match", summary="the last \\boxed{} equals the reference"),
        "math": Entry(
            target="retrain.rewards.math:Math", summary="mathematically equal (math-verify), in worker processes"
        ),
        "random": Entry(target="retrain.rewards.random:Random", summary="a coin: the control that must not learn"),
    },
}
"""Family → name → entry. A new choice is one file plus one line here."""


@cache
def installed() -> EntryPoints:
    """Return the entry points of all installed packages; looking for them reads the metadata of each."""
    from importlib.metadata import entry_points  # takes longer than all else that this module imports

    return cast("EntryPoints", entry_points())  # Python 3.11 has another class, which selects in the same way


@cache
def names(kind: str) -> dict[str, Entry]:
    """Return every name of a family: the built-in ones, then those of installed packages."""
    found = dict(BUILTIN[kind])
    for point in installed().select(group=f"retrain.{kind}s"):
        origin = point.dist.name if point.dist else "an installed package"
        found.setdefault(point.name, Entry(target=point.value, summary=f"from {origin}"))
    return found


def is_import_path(name: str) -> bool:
    """Tell ``pkg.mod:attr`` and ``pkg.mod.attr`` from a plain name."""
    return ":" in name or "." in name


def split(name: str) -> tuple[str, str]:
    """Return the module and the attribute of an import path."""
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    return module, attribute


@contextlib.contextmanager
def search_path(places: Sequence[Path]) -> Generator[None]:
    """Find plugin modules beside the TOML and in the working directory, before installed ones."""
    added = [str(place.resolve()) for place in places]
    sys.path[:0] = added
    try:
        importlib.invalidate_caches()
        yield
    finally:
        for place in added:
            sys.path.remove(place)


def check(
    kind: str, name: str, *, places: Sequence[Path], file: str = "", line: int = 0, key: str = ""
) -> Problem | None:
    """Say what is wrong with a name, without importing anything it names. None: it can be looked up."""
    if name in BUILTIN[kind] or name in names(kind):  # in this order: installed packages take long to look through
        return None
    if not is_import_path(name):
        return unknown_name(
            kind=f"known {kind}",
            name=name,
            known=[*names(kind), '"module:attribute" of your own'],
            file=file,
            line=line,
            key=key,
        )
    module, attribute = split(name)
    top = module.split(".")[0]
    with search_path(places):
        try:
            found = importlib.util.find_spec(top) if top.isidentifier() and attribute.isidentifier() else None
        except (ImportError, ValueError):
            found = None
    if found is None:
        looked = ", ".join(str(place) for place in places)
        return Problem(
            message=f'{key} = "{name}": there is no module {top}',
            hint=f"looked in {looked} and the installed packages",
            file=file,
            line=line,
            key=key,
        )
    return None


def _forget_namesake(module: str, places: Sequence[Path]) -> None:
    """Drop a module of this name that was imported from another folder: a process may train two configs in turn."""
    top = module.split(".", maxsplit=1)[0]
    found, loaded = importlib.machinery.PathFinder.find_spec(top), sys.modules.get(top)
    if found is None or found.origin is None or loaded is None or loaded.__file__ == found.origin:
        return
    if any(Path(found.origin).is_relative_to(place.resolve()) for place in places):
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def resolve(kind: str, name: str, *, places: Sequence[Path]) -> Any:
    """Import what a name stands for.

    Raises:
        ConfigError: the module cannot be imported or has no such attribute; the message names both.
    """
    entry = names(kind).get(name)
    module_name, attribute = split(entry.target if entry else name)
    with search_path(places):
        _forget_namesake(module_name, places)
        try:
            value: Any = importlib.import_module(module_name)
        except Exception as error:  # a plugin may fail in any way; a built-in one must not be hidden
            if entry is not None and name in BUILTIN[kind]:
                raise
            raise ConfigError(
                f'{kind} "{name}": importing {module_name} failed: {type(error).__name__}: {error}'
            ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            near = nearest(part, [known for known in dir(value) if not known.startswith("_")])
            question = f"; did you mean {near}?" if near else ""
            raise ConfigError(
                f'{kind} "{name}": {module_name} has no attribute {attribute}{question}',
                f"it is {value.__file__}" if getattr(value, "__file__", None) else "",
            )
        value = getattr(value, part)
    return value


def declared(kind: str, name: str) -> Any:
    """Return what a backend or an engine of this package says of itself: its `Capabilities` or `EngineCapabilities`.

    None: another one, of which nothing is known without importing it.
    """
    entry = names(kind).get(name)
    if entry is None or not entry.capabilities:
        return None
    module, attribute = split(entry.capabilities)
    return getattr(importlib.import_module(module), attribute)


def capabilities(name: str, *, places: Sequence[Path]) -> Capabilities:
    """Return what a backend says of itself. One of this package is not imported for it; a plugin is.

    Raises:
        ConfigError: as for `resolve`, or it is no backend.
    """
    if (known := declared("backend", name)) is not None:
        return known
    from retrain.capabilities import Capabilities

    found = resolve("backend", name, places=places)
    said = getattr(found, "capabilities", None)
    if not isinstance(said, Capabilities) or not callable(getattr(found, "load", None)):
        raise ConfigError(
            f'backend "{name}" is no backend: it needs capabilities = Capabilities(…), load and train',
            "retrain.types.Backend says what each of them is",
        )
    return said


CHECKED: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}
"""Annotations that a plugin's options are held to, and what TOML gives for them."""


def _fits(value: Any, wanted: str) -> bool:
    return isinstance(value, CHECKED[wanted]) and (wanted == "bool" or not isinstance(value, bool))


def made_with(make: Callable[..., Any], options: Mapping[str, Any], label: str) -> Any:
    """Call a plugin's class or factory with its options.

    Raises:
        ConfigError: it has no such option, the value is of another type, or it refuses the value.
    """
    known = inspect.signature(make).parameters
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{label} has no option {name}", f"its options: {', '.join(known) or 'none'}")
        annotation = known[name].annotation
        wanted = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        if wanted in CHECKED and not _fits(value, wanted):
            raise ConfigError(f"{label}: option {name} = {value!r} is not of type {wanted}")
    try:
        return make(**options)
    except Exception as error:  # a plugin's own check of its options
        raise ConfigError(f"{label} cannot be made from {dict(options)}: {type(error).__name__}: {error}") from error
