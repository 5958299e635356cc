"""Stage two, for `[eval]`: what is held out can be had, and no key is set that nothing would read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.config.rules import DATA_KEYS, is_set, problem, source_has_keys, unused
from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.config.compose import Composed
    from retrain.config.rules import Rule
    from retrain.errors import Problem

OF_THE_SOURCE = ("path", "name", "split")
OF_THE_TEST = ("samples", "temperature", "max_tokens", "reward")
"""Keys that the test split at the end is scored by too; all others are about the held-out part."""


def temperature_is_one(composed: Composed) -> Iterator[Problem]:
    """A temperature is -1 (training's), 0 (the likeliest token) or above; the likeliest token needs asking once."""
    wanted = composed.config.eval
    if -1 < wanted.temperature < 0:
        message = "is neither a temperature nor -1, which means training.temperature"
        yield problem(composed, "eval.temperature", message, "try temperature = 0.0, which takes the likeliest token")
    if wanted.temperature == 0 and wanted.samples > 1:
        message = "cannot be had: at eval.temperature = 0 all completions of a problem are the same"
        dotted = "eval.samples" if is_set(composed, "eval.samples") else "eval.temperature"
        yield problem(composed, dotted, message, "set samples = 1, or a temperature above 0")


def source_has_what_it_needs(composed: Composed) -> Iterator[Problem]:
    """The source gets its file or name; without one its keys would mean nothing."""
    if composed.config.eval.source:
        yield from source_has_keys(composed, "eval")
        return
    for name in OF_THE_SOURCE:
        yield from unused(composed, f"eval.{name}", "eval.source is empty", "set eval.source too")


def something_is_evaluated(composed: Composed) -> Iterator[Problem]:
    """Without evaluations during the run, the keys of the held-out part would be ignored; those of both, too."""
    wanted = composed.config.eval
    if wanted.every:
        return
    for dotted, key in KEYS.items():
        if key.section != "eval" or key.name in ("every", "final_test"):
            continue
        if wanted.final_test and key.name in OF_THE_TEST:
            continue
        if key.name in OF_THE_SOURCE and not wanted.source:
            continue  # `source_has_what_it_needs` says so
        hint = f"leave {key.name} out, or set every"
        yield from unused(composed, dotted, "eval.every = 0 turns evaluation off", hint)


def test_split_is_there(composed: Composed) -> Iterator[Problem]:
    """A final test needs a test split, and one that was not trained on."""
    data = composed.config.data
    if not composed.config.eval.final_test:
        return
    if "split" not in DATA_KEYS.get(data.source, ()):
        message = f'needs a test split, which data.source = "{data.source}" does not have'
        hint = "leave final_test out; another file can be scored with eval.source and eval.path"
        yield problem(composed, "eval.final_test", message, hint)
    elif data.split == "test":
        message = 'needs the test split, and data.split = "test" trains on it'
        yield problem(composed, "eval.final_test", message, 'set data.split = "train", or leave final_test out')


RULES: tuple[Rule, ...] = (
    temperature_is_one,
    source_has_what_it_needs,
    something_is_evaluated,
    test_split_is_there,
)
