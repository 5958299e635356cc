"""``builtin:tiny``: a Qwen3 of 302 000 weights with its own tokenizer and chat template, shipped in the package.

It adds two-digit numbers in two styles: *careful* (units, carry, tens: nearly always right) about one time in four, and
*hasty* (a guess, nearly always wrong) otherwise. So it is right about one time in four, and the way to a better reward
is a choice that it already knows how to make: training that works shows it within a few dozen steps, on one CPU core.

`scripts/make_tiny.py` made the weights; `weights/made.json` says how, and what was measured.
"""

from pathlib import Path

NAME = "builtin:tiny"
"""The value of `model.model` that means this model. Nothing else in the package knows it."""


def path() -> Path:
    """Return the folder of the model, in the layout that transformers loads."""
    return Path(__file__).parent / "weights"
