"""What a job of a sweep is called: short, unique, and good as the name of a folder and of a tag.

["algorithm=grpo", "training.lr=1e-5", "training.seed=3"]  →  algorithm=grpo,lr=1e-05
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from retrain.campaign.words import setting, words
from retrain.config import grammar, values
from retrain.config.schema import KEYS
from retrain.config.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 100  # characters; file systems allow 255 bytes, and "_s<seed>" follows
NOTHING = "default"  # the label of a job that changes nothing but the seed
_LEAVES = Counter(key.name for key in KEYS.values())


def labels_of(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return a label for each job: what differs between the jobs; jobs that differ in their seeds alone share one."""
    settings = [dict(map(setting, words(job))) for job in jobs]
    shared = {name for name in settings[0] if all(job.get(name) == settings[0][name] for job in settings)}
    return [_label({name: text for name, text in job.items() if name not in shared}) for job in settings]


def label_of(overrides: Sequence[str]) -> str:
    """Return the label of a job: all that it sets but its seed.

    Two labels are equal only when the settings are, but for how a number is written; where a text had to be
    shortened or lost characters, four digits of its hash follow.
    """
    return _label(dict(map(setting, words(overrides))))


def trial_label(number: int, trials: int, overrides: Sequence[str]) -> str:
    """Return the label of a trial: its number, in as many digits as the last one has, and what it sets.

    >>> trial_label(7, 20, ["training.lr=1e-4", "algorithm=maxrl"])
    't07,lr=0.0001,algorithm=maxrl'
    """
    text = f"t{number:0{len(str(trials - 1))}},{label_of(overrides)}"
    return _marked(text, text)


def _label(settings: dict[str, str]) -> str:
    parts = []
    for name, text in settings.items():
        if name not in ("training.seed", "--config-dir", "condition") and not name.startswith("campaign."):
            parts.append(_part(name, text))
    return _marked(",".join(parts) or NOTHING, ",".join(parts) or NOTHING)


def _part(name: str, text: str) -> str:
    if name.startswith("~"):
        return f"without={_safe(name[1:])}"
    dotted = ".".join(name.split(".")[:2])
    key = KEYS.get(dotted)
    shown, called = grammar.unquoted(text), name
    if key is not None:
        with suppress(ValueError):  # composing the job says what is wrong with it
            value = grammar.parse(key, text, entry=name != dotted)
            shown = value if isinstance(value, str) else values.show(value)
        leaf = name.partition(".")[2]
        called = leaf if name != dotted or _LEAVES[leaf] == 1 else name
    return f"{_safe(called)}={_safe(mask(shown, name))}"


def _safe(text: str) -> str:
    """Return a text without the characters that mean something in paths, labels and shells."""
    return _marked(re.sub(r"[^\w.+-]+", "_", text), text)


def _marked(short: str, text: str) -> str:
    """Return the short form of a text, with some of its hash where the two differ."""
    if short == text and len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:4]
    return f"{short[: LONGEST - 5]}-{digest}"
