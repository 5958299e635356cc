"""The manual's search: topics by heading and text, and keys, flags, names, commands, metrics, rules and messages.

An entry is found by its names, its heading and its text. What comes first, for the words of a query:

    1  a name is exactly that: ``lora rank``, ``lora_rank``, ``--lora-rank``
    2  a name or a heading has all of the words; the fewer others it has, the better
    3  name, heading and text together have all of the words
    4  only where nothing has all of them: those that have the rarest

Words are compared without their endings (truncated, truncation). A query is also tried with what the program calls a
thing (``SYNONYMS``), for a little less. A word that is nowhere is replaced by the one most like it, and that is said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from retrain import manual
from retrain.errors import nearest
from retrain.manual import marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST = 10  # hits that are shown: nobody reads further
EXACT, NAMED, WRITTEN, PARTLY = 1000.0, 500.0, 200.0, 100.0
BY_SYNONYM = 0.9

KINDS = ("topic", "key", "rule", "command", "section", "flag", "metric", "name", "exit code", "message")
"""What an entry is; of equally good ones the earlier kind comes first."""

SYNONYMS: dict[str, str] = {  # what users say → how the manual puts it
    "oom": "out of memory",
    "vram": "memory",
    "nan": "not finite",
    "inf": "not finite",
    "gpu": "devices",
    "gpus": "devices",
    "cuda": "devices",
    "slurm": "cluster",
    "sbatch": "cluster",
    "crash": "killed",
    "crashed": "killed",
    "hangs": "stalled",
    "stuck": "stalled",
    "precedence": "which value wins",
    "override": "which value wins",
    "validation": "held out",
    "reproducible": "repeat",
    "sweep": "campaigns",
    "continue": "resume",
    "vllm": "inference engines",
    "sglang": "inference engines",
    "ablation": "campaigns",
    "significance": "verdict",
    "multi": "several",
    "password": "secrets",
    "mlflow": "tracker",
    "down": "away",
}

UNIMPORTANT = frozenset(
    re.findall(
        r"\w+",
        "a about an and are as at be been by can could do does for from get has have how i if in is it its me my of on "
        "or should so that the there this to was what when where which who why will with you your",
    )
)
ENDING = re.compile(r"(\w{3,}?)(?:ations?|ating|ated|ates?|ison|ions?|ings?|ed|es|e|s)")
"""What is left of a word, then the longest ending that leaves three letters."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that can be found.

    name:     as the user writes it; also: its other names
    text:     what it means, a line or a section
    topic, heading: where the manual explains it; "" where it does not
    command:  what to type to read more
    """

    kind: str
    name: str
    also: tuple[str, ...] = ()
    text: str = ""
    topic: str = ""
    heading: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An entry that was found, with the line that shows why."""

    entry: Entry
    excerpt: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a query finds.

    hits:     the best first
    words:    that were looked for, to be highlighted
    replaced: words that are nowhere → those that were looked for instead; "": there is none like it
    """

    hits: list[Hit]
    words: tuple[str, ...]
    replaced: dict[str, str] = field(default_factory=dict[str, str])


# --- what can be found ------------------------------------------------------------------------------------------------


def entries() -> list[Entry]:
    """Return everything that can be found: what the index holds, and the topics as they are now."""
    indexed = manual.INDEX.read_text(encoding="utf-8").splitlines()
    written = [entry for topic in manual.files() for entry in of_topic(topic, manual.read(topic))]
    return [*map(from_line, indexed), *written]


def from_line(line: str) -> Entry:
    """Return an entry of the index."""
    values: dict[str, Any] = json.loads(line)
    return Entry(**{**values, "also": tuple(values.get("also", ()))})


def of_topic(topic: str, text: str) -> list[Entry]:
    """Return a topic, and its sections with the text that is not generated: what is generated is in the index."""
    title, _, about = text.partition("\n")[0].removeprefix("# ").partition(": ")
    command = f"retrain man {topic}"
    found = [Entry(kind="topic", name=topic, also=(title,), text=about, topic=topic, command=command)]
    headings = [(n, line.lstrip("#").strip()) for n, line in marks.outside_code(text) if re.match(r"#{1,6} ", line)]
    lines = text.splitlines()
    for block in marks.blocks(text, f"{topic}.md"):
        lines[block.first - 1 : block.last] = [""] * (block.last - block.first + 1)
    ends = [number for number, _ in headings[1:]] + [len(lines) + 1]
    for (number, heading), end in zip(headings, ends, strict=True):
        body = "\n".join(line for line in lines[number : end - 1] if line.strip())
        if body:
            name, below = (topic, "") if number == 1 else (heading.replace("`", ""), heading)
            found.append(Entry(kind="section", name=name, text=body, topic=topic, heading=below, command=command))
    return found


# --- words ------------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Return the words of a text that say something, in lower case; all of them where none does."""
    every = re.findall(r"[^\W_]+", text.lower())
    return [word for word in every if word not in UNIMPORTANT] or every


@cache
def stem(word: str) -> str:
    """Return a word without its ending; a letter that the ending doubled, as in clipped, counts once."""
    found = ENDING.fullmatch(word)
    if found is None or word.endswith("ss"):
        return word
    left = found[1]
    doubled = len(left) > 3 and left[-1] == left[-2] and word.endswith(("ed", "ing", "ings"))
    return left[:-1] if doubled else left


@cache
def stems(text: str) -> tuple[str, ...]:
    return tuple(map(stem, words_of(text)))


# --- ranking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Words:
    """The words of an entry, without endings."""

    names: tuple[tuple[str, ...], ...]
    named: frozenset[str]  # in names, heading and topic
    written: tuple[str, ...]  # in its text, in order

    @classmethod
    def of(cls, entry: Entry) -> _Words:
        names = tuple(stems(name) for name in (entry.name, *entry.also))
        if entry.kind == "message":  # nobody calls it that: its words are text
            return cls((), frozenset(), stems(f"{entry.name} {entry.text}"))
        return cls(names, frozenset().union(*names, stems(entry.heading), stems(entry.topic)), stems(entry.text))

    @property
    def every(self) -> frozenset[str]:
        return self.named.union(self.written)


def search(query: str) -> Found:
    """Return what a query finds, at most `MOST` hits."""
    known = [(entry, _Words.of(entry)) for entry in entries()]
    asked, replaced = _corrected(words_of(query), known)
    if not asked:
        return Found(hits=[], words=(), replaced=replaced)
    variants = {" ".join(asked) if replaced else query.strip().lower(): 1.0}
    variants.setdefault(" ".join(SYNONYMS.get(word, word) for word in asked), BY_SYNONYM)
    rarity = _rarity(known, {found for variant in variants for found in stems(variant)})
    scored = [
        (max(_score(entry, words, v, rarity) * weight for v, weight in variants.items()), entry)
        for entry, words in known
    ]
    hits = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: (-pair[0], KINDS.index(pair[1].kind)))
    if hits and hits[0][0] > PARTLY:
        hits = [pair for pair in hits if pair[0] > PARTLY]
    words = tuple(dict.fromkeys(word for variant in variants for word in words_of(variant)))
    best = [Hit(entry=entry, excerpt=excerpt(entry, words), score=score) for score, entry in _distinct(hits)]
    return Found(hits=best[:MOST], words=words, replaced=replaced)


def _corrected(asked: Sequence[str], known: Iterable[tuple[Entry, _Words]]) -> tuple[list[str], dict[str, str]]:
    """Return the words to look for, and those that are nowhere with what they are replaced by."""
    stock = frozenset().union(*(words.every for _, words in known))
    unknown = [word for word in asked if stem(word) not in stock and word not in SYNONYMS]
    replaced = {word: _likely(word, stock) for word in unknown}
    return [new for word in asked if (new := replaced.get(word, word))], replaced


def _likely(word: str, stock: Iterable[str]) -> str:
    """Return a word that begins with this one, or is most like it; "" without one."""
    longer = sorted((known for known in stock if len(word) >= 3 and known.startswith(word)), key=len)
    return longer[0] if longer else nearest(word, [*stock, *SYNONYMS], cutoff=0.75) or ""


def _rarity(known: Iterable[tuple[Entry, _Words]], wanted: set[str]) -> dict[str, float]:
    """Return how much a word tells: one over the number of entries that have it."""
    counts = dict.fromkeys(wanted, 0)
    for _, words in known:
        for word in wanted & words.every:
            counts[word] += 1
    return {word: 1 / count for word, count in counts.items() if count}


def _score(entry: Entry, words: _Words, query: str, rarity: Mapping[str, float]) -> float:
    """Return how well an entry answers: above `PARTLY` it has all of the words."""
    if query.startswith("-"):  # a flag: its letters count, not their words
        same = query.partition("=")[0] in entry.also
        return EXACT if same else 0.5 * _score(entry, words, query.lstrip("-"), rarity)
    wanted = stems(query)
    if wanted in words.names:
        return EXACT if query in (name.lower() for name in (entry.name, *entry.also)) else 0.95 * EXACT
    need = frozenset(wanted)
    shares = [len(need) / len(set(name)) for name in words.names if need <= set(name)]
    if shares:
        return NAMED * (1 + 0.5 * max(shares))
    if need <= words.every:
        density = sum(word in need for word in words.written) / max(1, len(words.written))
        in_a_line = any(need <= set(stems(line)) for line in entry.text.splitlines())
        told = 100 * density + 20 * in_a_line - 3 * KINDS.index(entry.kind)
        return WRITTEN * (1 + len(need & words.named) / len(need)) + told
    total = sum(rarity.get(word, 1.0) for word in need)
    return 0.99 * PARTLY * sum(rarity.get(word, 0.0) for word in need & words.every) / total


def _distinct(scored: Iterable[tuple[float, Entry]]) -> list[tuple[float, Entry]]:
    """Leave out what says the same as something before it: a topic's first section after the topic itself."""
    found: dict[tuple[str, str], tuple[float, Entry]] = {}
    for score, entry in scored:
        found.setdefault((entry.name, entry.command), (score, entry))
    return list(found.values())


def excerpt(entry: Entry, words: Sequence[str], width: int = 110) -> str:
    """Return the line of an entry's text that has most of the words, without its Markdown."""
    wanted = set(map(stem, words))
    lines = entry.text.splitlines() or [""]
    best = max(lines, key=lambda line: len(wanted & set(stems(line))))
    cells = best.strip("| ").replace("|", " ") if best.startswith("|") else best
    plain = " ".join(re.sub(r"\*\*|`|^\s*[-#>]+\s", "", cells).split())
    return plain if len(plain) <= width else f"{plain[: width - 1].rstrip()}…"
