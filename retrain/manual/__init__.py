"""The manual: one Markdown file a topic, in `topics/`. What the program says elsewhere is generated when it is read.

    # name: what it is about        the first line of every topic
    <!-- generated: keys -->        stands for every config key, from `retrain.config.schema`

`docs/` links to the same files.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from retrain import registry
from retrain.config import values
from retrain.config.keys import keys_of
from retrain.config.schema import KEYS, SECTIONS, RunConfig

if TYPE_CHECKING:
    from retrain.config.keys import Key

KEYS_MARK = "<!-- generated: keys -->"


def topics() -> dict[str, str]:
    """Return every topic with what it is about, in a line."""
    found = {}
    for file in resources.files(__name__).joinpath("topics").iterdir():
        if file.name.endswith(".md"):
            title = file.read_text(encoding="utf-8").partition("\n")[0]
            found[file.name.removesuffix(".md")] = title.partition(": ")[2]
    return dict(sorted(found.items()))


def read(topic: str) -> str:
    """Return a topic as Markdown, with its generated parts.

    Raises:
        FileNotFoundError: it is none of `topics()`.
    """
    text = resources.files(__name__).joinpath("topics", f"{topic}.md").read_text(encoding="utf-8")
    return text.replace(KEYS_MARK, key_reference()) if KEYS_MARK in text else text


def key_reference() -> str:
    """Return every key as Markdown, section by section: type and range, default, meaning."""
    classes = {section: type(getattr(RunConfig(), section)) for section in SECTIONS}
    parts = []
    for section, declared in classes.items():
        about = (declared.__doc__ or "").partition("\n")[0]
        lines = [key_line(KEYS[key.dotted]) for key in keys_of(section, declared)]
        parts.append("\n".join([f"### [{section}]", "", about, "", *lines]))
    return "\n\n".join(parts)


def key_line(key: Key) -> str:
    """Return a key as one item of a list."""
    meaning = key.help.replace("<", "\\<")  # else <time> would be read as HTML
    return f"- `{key.name} = {values.show(key.default)}` ({allowed(key)}): {meaning}"


def allowed(key: Key) -> str:
    """Return what a key takes, in words."""
    names = key.choices or tuple(registry.names(key.registry) if key.registry else ())
    if not names:
        return values.needed(key)
    own = "; or `module:attribute` of your own" if key.registry else ""
    return f"{', '.join(names)}{own}"
