"""What the rules of stage two are made of: a key's value, whether it is set, and problems that name it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.config import values
from retrain.config.origins import DEFAULT
from retrain.config.schema import KEYS
from retrain.errors import Problem, Unused, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrain.config.compose import Composed

    Rule = Callable[[Composed], Iterator[Problem]]

DATA_KEYS = {  # what a built-in source reads of [data], beside its prompts' texts
    "math": ("name", "split"),
    "gsm8k": ("split",),
    "arithmetic": ("name", "split"),
    "jsonl": ("path", "prompt_key", "answer_key"),
    "hf": ("name", "split", "prompt_key", "answer_key"),
}


def value_of(composed: Composed, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(composed.config, section), name)


def is_set(composed: Composed, dotted: str) -> bool:
    return value_of(composed, dotted) != KEYS[dotted].default


def problem(composed: Composed, dotted: str, message: str, hint: str) -> Problem:
    """Describe what is wrong with a key's value, where the value was given."""
    shown = values.show(value_of(composed, dotted), dotted)
    return composed.origins.get(dotted, DEFAULT).problem(f"{dotted} = {shown} {message}", hint, dotted)


def unused(composed: Composed, dotted: str, why: str, hint: str) -> Iterator[Problem]:
    """Yield a problem when a key is set that cannot have an effect."""
    if is_set(composed, dotted):
        yield no_effect(composed, dotted, why, hint)


def no_effect(composed: Composed, dotted: str, why: str, hint: str = "") -> Unused:
    """Describe a key that cannot have an effect; the hint is to leave it out."""
    hint = hint or f"leave {dotted.partition('.')[2]} out"
    return Unused(**vars(problem(composed, dotted, f"has no effect: {why}", hint)))


def file_exists(composed: Composed, dotted: str) -> Iterator[Problem]:
    """Yield a problem when a key names no file beside the TOML or in the working directory."""
    path = Path(value_of(composed, dotted))
    found = next((place / path for place in composed.places if (place / path).exists()), None)
    if found is not None and not found.is_file():
        yield problem(composed, dotted, "is a folder, a file is needed", "name the .jsonl file in it")
    elif found is None:
        parents = [folder for place in composed.places if (folder := (place / path).parent).is_dir()]
        near = nearest(path.name, [p.name for folder in parents for p in folder.iterdir()])
        question = f'; did you mean "{path.parent / near}"?' if near else ""
        looked = " and ".join(dict.fromkeys(str((place / path).parent) for place in composed.places))
        yield problem(composed, dotted, f"is no file{question}", f"looked in {looked}")


def source_has_keys(composed: Composed, section: str) -> Iterator[Problem]:
    """Yield what is wrong with the source of a section: a file or name that it lacks, keys that it would not read."""
    source = value_of(composed, f"{section}.source")
    if source == "jsonl" and not value_of(composed, f"{section}.path"):
        hint = f'set {section}.path too, such as path = "problems.jsonl"'
        yield problem(composed, f"{section}.source", "needs a file", hint)
    elif source == "jsonl":
        yield from file_exists(composed, f"{section}.path")
    if source == "hf" and not value_of(composed, f"{section}.name"):
        hint = f'set {section}.name too, such as name = "openai/gsm8k:main"'
        yield problem(composed, f"{section}.source", "needs a data set", hint)
    for name in ("path", "name", "split", "prompt_key", "answer_key"):
        dotted = f"{section}.{name}"
        if dotted in KEYS and source in DATA_KEYS and name not in DATA_KEYS[source]:
            yield from unused(composed, dotted, f'source = "{source}" does not use it', f"leave {name} out")
