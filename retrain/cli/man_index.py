"""The index of the manual's search: what can be found beside the text of the topics, made from where it is declared.

Messages are read from the sources, for their words are what a user has before their eyes.
"""

from __future__ import annotations

import ast
import json
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import retrain
from retrain import health, manual, metrics, registry
from retrain.cli import man_blocks
from retrain.cli.commands import COMMANDS
from retrain.config import values
from retrain.config.names import FLAGS, OTHER_NAMES
from retrain.config.schema import CAMPAIGN_KEYS, KEYS, RunConfig
from retrain.manual import marks
from retrain.manual.search import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL_NAMES = {"clip": "algorithm.clip_eps", "checkpoint": "training.save_every", "seed": "training.seed"}
"""What a user calls a key that no other program has under that name."""

RAISED = frozenset({"ConfigError", "RunError", "Problem", "problem", "Finding"})
"""What a message is made with: `(message, hint)`, by place or by name."""

WORDS: dict[str, tuple[str, str]] = {
    "extends": ("a TOML's parent, or a list of parents, relative to itself", "configuration"),
    "[defaults]": ('group files that a TOML picks: algorithm = "maxrl" is conf/algorithm/maxrl.toml', "configuration"),
    "--config-dir": ("one more folder of group files", "configuration"),
    "--backend-opt": ("K=V sets backend.options.K", "configuration"),
    "--multirun": ("many runs from overrides that sweep: algorithm=grpo,maxrl training.seed=1,2", "campaigns"),
}
"""What a TOML or a command line may say that is no key and no flag of a command: meaning, topic."""

FEWEST = 3  # words of a message that are the same each time; below, there is nothing to search for


def lines() -> str:
    """Return the index as it is kept, an entry a line."""
    kept, homes = [], Homes()
    explained = (make(homes) for make in (keys, measured, rules, choices, codes))
    for entry in (*chain.from_iterable(explained), *words(), *commands(), *messages()):
        filled = {name: value for name, value in vars(entry).items() if value}
        kept.append(json.dumps(filled, ensure_ascii=False))
    return "".join(f"{line}\n" for line in kept)


class Homes:
    """Which topic explains what, by the generated blocks and the headings that it has."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str], str] = {}  # name, an argument or ""
        self._headings: dict[str, str] = {}
        for topic, path in manual.packaged().items():
            text = path.read_text(encoding="utf-8")
            for block in marks.blocks(text, str(path)):
                for argument in block.arguments or ("",):
                    self._blocks.setdefault((block.name, argument), topic)
            for _, line in marks.outside_code(text):
                if line.startswith("##"):
                    self._headings.setdefault(line.lstrip("# `").rstrip("` "), topic)

    def of(self, block: str, argument: str = "", name: str = "") -> str:
        """Return the topic with a block of this argument alone, or of everything, or with a heading `name`; or ""."""
        found = self._blocks.get((block, argument)) or self._blocks.get((block, ""))
        return found or self._headings.get(name, "")


def reading(topic: str) -> str:
    """Return what to type to read a topic; nothing without one."""
    return f"retrain man {topic}" if topic else ""


# --- the schema -------------------------------------------------------------------------------------------------------


def keys(homes: Homes) -> Iterator[Entry]:
    """Yield every key, with its flags and what others call it."""
    elsewhere = [*OTHER_NAMES.items(), *USUAL_NAMES.items()]
    for dotted, key in KEYS.items():
        flags = [flag for flag, meant in FLAGS.items() if meant == dotted]
        others = [name for name, meant in elsewhere if meant == dotted]
        topic = homes.of("keys", key.section)
        yield Entry(
            kind="key",
            name=dotted,
            also=tuple(dict.fromkeys([key.name, *flags, *others])),
            text=f"{key.help} (default {values.show(key.default)})",
            topic=topic,
            heading=f"[{key.section}]",
            command=reading(topic),
        )
    topic = homes.of("campaign-keys") or "campaigns"  # which has a table of its own
    for key in CAMPAIGN_KEYS.values():
        yield Entry(
            kind="key",
            name=key.dotted,
            also=(key.name,),
            text=f"{key.help} (default {values.show(key.default)})",
            topic=topic,
            heading="[campaign]",
            command=reading(topic),
        )


def words() -> Iterator[Entry]:
    for name, (text, topic) in WORDS.items():
        yield Entry(kind="key", name=name, also=(name,), text=text, topic=topic, command=reading(topic))


# --- the program ------------------------------------------------------------------------------------------------------


def commands() -> Iterator[Entry]:
    """Yield every command, and its own flags with what its help says of them."""
    for name, command in COMMANDS.items():
        asking = f"retrain {name} --help"
        yield Entry(kind="command", name=f"retrain {name}", also=(name,), text=command.summary, command=asking)
        for flag in command.flags:
            said = [line for line in command.details.splitlines() if re.search(rf"{flag}(?![\w-])", line)]
            own = [line for line in said if line.startswith(flag)]
            text = " ".join([*own, *said, command.usage][0].split())
            yield Entry(kind="flag", name=f"{name} {flag}", also=(flag,), text=text, command=asking)


def measured(homes: Homes) -> Iterator[Entry]:
    for key, metric in metrics.METRICS.items():
        topic = homes.of("metrics", key.partition("/")[0])
        share, unit = metric.unit == "share", f" ({metric.unit})" if metric.unit else ""
        text = f"share {metric.meaning}" if share else f"{metric.meaning}{unit}"
        yield Entry(kind="metric", name=key, text=text, topic=topic, command=reading(topic))


def rules(homes: Homes) -> Iterator[Entry]:
    for rule in health.rules(RunConfig()):
        topic = homes.of("health", name=rule.name)
        text = f"{man_blocks.first_line(rule)} {man_blocks.limits(rule)}".strip()
        yield Entry(kind="rule", name=rule.name, text=text, topic=topic, command=reading(topic))


def choices(homes: Homes) -> Iterator[Entry]:
    """Yield every name that a config may choose."""
    for family, table in registry.BUILTIN.items():
        for name, entry in table.items():
            topic = homes.of("names", family, name)
            yield Entry(
                kind="name",
                name=name,
                also=(f"{family} {name}",),
                text=f"{family}: {entry.summary} {man_blocks.formula(entry)}".strip(),
                topic=topic,
                command=reading(topic) or f"retrain plugins --kind {family}",
            )


def codes(homes: Homes) -> Iterator[Entry]:
    topic = homes.of("exit-codes")
    for error in man_blocks.leaves():
        yield Entry(
            kind="exit code",
            name=f"exit code {error.exit_code}",
            also=(error.code,),
            text=(error.__doc__ or "").partition("\n")[0],
            topic=topic,
            command=reading(topic),
        )


# --- messages ---------------------------------------------------------------------------------------------------------


def messages() -> Iterator[Entry]:
    """Yield what goes wrong and what to do about it, wherever both are written as text; … stands for a value."""
    found = set[tuple[str, str]]()
    for path in sorted(Path(retrain.__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _called(call) in RAISED:
                message, hint = (constant(_given(call, place, name)) for place, name in enumerate(("message", "hint")))
                if hint and len(re.findall(r"[a-z]{3,}", message)) >= FEWEST:
                    found.add((message, hint))
    for message, hint in sorted(found):
        yield Entry(kind="message", name=message, text=hint)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _given(call: ast.Call, place: int, name: str) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return named[0] if named else call.args[place] if len(call.args) > place else None


def constant(text: ast.expr | None) -> str:
    """Return a text of the source with … for what is filled in; "" where it is made elsewhere."""
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return " ".join(text.value.split())
    if not isinstance(text, ast.JoinedStr):
        return ""
    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in text.values]
    return " ".join("".join(map(str, parts)).split())
