"""Stage two, for the pipeline of transforms: every entry is known, can act, and is given what it needs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from retrain import registry
from retrain.config import schema, values
from retrain.config.keys import Key, keys_of
from retrain.config.origins import DEFAULT, Origin
from retrain.config.rules import no_effect
from retrain.config.schema import KEYS
from retrain.config.transforms import Planned, asks_for, planned
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain.config.compose import Composed

    Rule = Callable[[Composed], Iterator[Problem]]

OBSERVATIONS = 50  # completions that the auto schedule of sepa watches before it may act
SAID_TWICE = {
    ("gtpo", "beta"): "gtpo.beta",
    ("hicra", "alpha"): "hicra.alpha",
    ("sepa", "steps"): "sepa.steps",
    ("sepa", "schedule"): "sepa.schedule",
    ("sepa", "delay_steps"): "sepa.delay_steps",
    ("sepa", "correct_rate_gate"): "sepa.correct_rate_gate",
    ("entropy_mask", "rho"): "algorithm.entropy_mask_rho",
    ("clip", "max"): "algorithm.adv_clip_max",
}
"""(transform, option) → the key that says the same."""


def _origin(composed: Composed, dotted: str) -> Origin:
    return composed.origins.get(dotted, DEFAULT)


def _set(composed: Composed, dotted: str) -> bool:
    section, _, name = dotted.partition(".")
    return getattr(getattr(composed.config, section), name) != KEYS[dotted].default


def _options(name: str) -> dict[str, Key]:
    return {key.name: key for key in keys_of("algorithm.transforms", getattr(schema, _OPTION_CLASSES[name]))}


_OPTION_CLASSES = {name: entry.options.rpartition(":")[2] for name, entry in registry.BUILTIN["transform"].items()}


def entries_are_known(composed: Composed) -> Iterator[Problem]:
    """Every table of `transforms` has a known name and takes its options."""
    origin = _origin(composed, "algorithm.transforms")
    for number, entry in enumerate(composed.config.algorithm.transforms, 1):
        name, label = entry.get("name"), f"algorithm.transforms[{number}]"
        if not isinstance(name, str) or not name:
            yield origin.problem(f"{label} has no name", 'such as {name = "gtpo"}', "algorithm.transforms")
            continue
        at = origin.problem("")
        found = registry.check(
            "transform", name, places=composed.places, file=at.file, line=at.line, key=f"{label}.name"
        )
        if found is not None:
            yield found
        elif name in _OPTION_CLASSES:
            given = {option: value for option, value in entry.items() if option != "name"}
            yield from _option_problems(composed, name, label, given, origin)


def _option_problems(
    composed: Composed, name: str, label: str, given: dict[str, Any], origin: Origin
) -> Iterator[Problem]:
    known = _options(name)
    for option, value in given.items():
        if option not in known:
            near = nearest(option, known)
            question = f'; did you mean "{near}"?' if near else ""
            hint = f"its options: {', '.join(known) or 'none'}"
            yield origin.problem(f'{label}: {name} has no option "{option}"{question}', hint, "algorithm.transforms")
            continue
        yield from values.resolved_problems(known[option], value, origin, composed.places)
        key = SAID_TWICE.get((name, option))
        if key is not None and _set(composed, key):
            section, _, leaf = key.partition(".")
            other = getattr(getattr(composed.config, section), leaf)
            if other != value:
                message = f"{label} says {name} {option} = {values.show(value)}, but {key} = {values.show(other)}"
                yield origin.problem(message, f"say it once; {key} is at {_origin(composed, key)}", key)


def _pipeline(composed: Composed) -> list[Planned]:
    """The transforms, where every entry is sound; nothing where one is not, for that is reported already."""
    return [] if any(entries_are_known(composed)) else planned(composed.config)


def transforms_can_act(composed: Composed) -> Iterator[Problem]:
    """What rewrites the uncertainty has a reader after it, and what keeps state stands in the list once."""
    names = [step.name for step in _pipeline(composed)]
    origin = _origin(composed, "algorithm.transforms")
    if names.count("sepa") > 1:
        message = "algorithm.transforms holds sepa twice: both would follow one schedule and even out the same tokens"
        yield origin.problem(message, "keep one", "algorithm.transforms")
    readers = [
        step.entry is None or not step.is_built_in or "uncertainty" in step.entry.requires
        for step in _pipeline(composed)
    ]
    for place, name in enumerate(names):
        if name == "sepa" and not any(readers[place + 1 :]):
            message = "algorithm.transforms has sepa after everything that reads the uncertainty, so it has no effect"
            yield origin.problem(message, "put it before gtpo or entropy_mask", "algorithm.transforms")
    if any(pair == ("whiten", "whiten") for pair in pairwise(names)):
        message = "algorithm.transforms whitens twice in a row: the second has no effect"
        yield origin.problem(message, "keep one", "algorithm.transforms")


def keys_have_a_transform(composed: Composed) -> Iterator[Problem]:
    """Keys of a transform that is not in the pipeline would be ignored."""
    steps = _pipeline(composed)
    if not steps and composed.config.algorithm.transforms:
        return
    used = {step.name for step in steps}
    for (name, _), key in SAID_TWICE.items():
        if name not in used and _set(composed, key):
            yield no_effect(composed, key, f"no transform of this pipeline is {name}")
    own = any(not step.is_built_in for step in steps)
    if not own and not asks_for(steps, "planning_mask"):
        for key in ("planning.detector", "planning.strategic_grams"):
            if _set(composed, key):
                yield no_effect(composed, key, "no transform of this pipeline asks which tokens plan")
    if not asks_for(steps, "uncertainty") and _set(composed, "algorithm.uncertainty_kind"):
        yield no_effect(composed, "algorithm.uncertainty_kind", "no transform of this pipeline reads it")
    if composed.config.planning.detector != "regex" and _set(composed, "planning.strategic_grams"):
        yield no_effect(composed, "planning.strategic_grams", "only the regex detector looks for them")
    algorithm = composed.config.algorithm
    if algorithm.transform_params and (algorithm.transforms or algorithm.transform_mode in registry.MODES):
        yield no_effect(composed, "algorithm.transform_params", "they go to a transform_mode of your own")
    if algorithm.advantage_params and algorithm.advantage_mode in registry.BUILTIN["baseline"]:
        yield no_effect(composed, "algorithm.advantage_params", "they go to an advantage_mode of your own")


def sepa_acts_within_the_run(composed: Composed) -> Iterator[Problem]:
    """A schedule whose lambda stays 0 until the end would be a run without SEPA that looks like one with it."""
    training = composed.config.training
    for step in _pipeline(composed):
        if step.name != "sepa":
            continue
        options: schema.Sepa = step.options
        delay, steps = options.timing(training.max_steps)
        last = training.max_steps - 1
        acts = steps > 0 and last > delay
        watched = training.max_steps * training.batch_size * training.group_size
        if acts or (options.schedule == "auto" and watched > OBSERVATIONS):
            continue
        why = (
            f"steps = {steps} means lambda stays 0"
            if steps == 0
            else f"lambda leaves 0 after step {delay}, and the last of max_steps = {training.max_steps} is {last}"
        )
        at = next((o for o in ("sepa.delay_steps", "sepa.steps") if _set(composed, o)), "training.max_steps")
        hint = f"try delay_steps = {training.max_steps // 10} and steps = {max(1, training.max_steps // 2)}"
        yield _origin(composed, at).problem(f"sepa never acts: {why}", hint, at)


def signal_can_be_had(composed: Composed) -> Iterator[Problem]:
    """The engine knows what the uncertainty is made of."""
    kind, engine = composed.config.algorithm.uncertainty_kind, composed.config.inference.engine
    signal, source = registry.names("signal").get(kind), registry.declared("engine", engine)
    if signal is None or source is None or not asks_for(_pipeline(composed), "uncertainty"):
        return
    missing = signal.requires - source.gives
    if missing:
        message = f'uncertainty_kind = "{kind}" needs {", ".join(missing)}, which engine "{engine}" does not give'
        hint = 'uncertainty_kind = "surprisal", or engine = "pytorch"'
        yield _origin(composed, "algorithm.uncertainty_kind").problem(message, hint, "algorithm.uncertainty_kind")


RULES: tuple[Rule, ...] = (
    entries_are_known,
    transforms_can_act,
    keys_have_a_transform,
    sepa_acts_within_the_run,
    signal_can_be_had,
)

assert all(key in KEYS for key in SAID_TWICE.values())
