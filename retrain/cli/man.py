"""`retrain man`: the manual, topic by topic; what is found in it; and whether its generated parts are up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import __version__, manual
from retrain.cli import output
from retrain.cli.flags import parse
from retrain.errors import ConfigError, Problem, Stale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain.manual.search import Found, Hit

ACTIONS = ("--list-topics", "--search", "--path", "--check", "--sync")
MENDS = "retrain man --sync"


def main(arguments: Sequence[str]) -> int:
    """Show a topic, list them, search, say where they are, or check and rewrite what is generated in them.

    Exit code 1: nothing was found, or something is stale.

    Raises:
        ConfigError: an unknown topic, more than one, two things at once, marks in a topic that are wrong, or no place
            that can be written to.
        Stale: a generated block, or the index of the search, is not what it would be now.
    """
    flags, positional = parse("man", arguments)
    asked = [flag for flag in ACTIONS if flag in flags]
    if len(asked) > 1:
        raise ConfigError(f"retrain man does one thing, got {' and '.join(asked)}", "retrain man --help")
    action = asked[0] if asked else ""
    as_json, paged = "--json" in flags, "--no-pager" not in flags
    if action == "--search" and "--topic" not in flags:
        return find(" ".join([flags["--search"], *positional]), as_json=as_json, paged=paged)
    topic = one_topic(flags, positional)
    if topic and action not in ("", "--path"):
        raise ConfigError(f"{action} is about all topics; leave {topic} out", "retrain man --help")
    if action == "--path":
        show_path(topic, as_json=as_json)
    elif action == "--check":
        check(as_json=as_json)
    elif action == "--sync":
        sync(as_json=as_json)
    elif topic:
        show_topic(topic, as_json=as_json, paged=paged)
    else:
        list_topics(as_json=as_json)
    return 0


def one_topic(flags: Mapping[str, str], positional: Sequence[str]) -> str:
    """Return the topic that was asked for; "" for none."""
    asked = [*positional, *([flags["--topic"]] if "--topic" in flags else [])]
    if len(asked) > 1:
        words = " ".join(asked)
        raise ConfigError(f"retrain man shows one topic, got {len(asked)}: {words}", f'retrain man --search "{words}"')
    if asked == [""]:
        raise ConfigError("a topic needs a name", "retrain man lists the topics")
    return asked[0] if asked else ""


# --- reading ----------------------------------------------------------------------------------------------------------


def list_topics(*, as_json: bool) -> None:
    """Print every topic with what it is about."""
    tell_of_copy()
    known, files = manual.topics(), manual.files()
    if as_json:
        listed = [{"name": name, "about": about, "source": str(files[name])} for name, about in known.items()]
        output.document({"topics": listed})
        return
    width = max(map(len, known))
    print("\n".join(f"{name:<{width}}  {about}" for name, about in known.items()))
    output.say("\nretrain man TOPIC shows one; retrain man --search WORDS finds")


def show_topic(topic: str, *, as_json: bool, paged: bool) -> None:
    """Print a topic: laid out on a terminal, as it is written in a pipe."""
    text, file = manual.read(topic), manual.file(topic)
    tell_of_copy()
    if as_json:
        output.document({"name": topic, "about": manual.topics()[topic], "text": text, "source": str(file)})
    elif sys.stdout.isatty():
        from retrain.cli import man_terminal

        man_terminal.show_topic(text, paged=paged)
    else:
        print(text.rstrip())


def tell_of_copy() -> None:
    """Say on stderr when a user's copy is read, and when it is one of another version."""
    folder, version = manual.copied(), manual.copied_from()
    if folder is None:
        return
    output.say(f"from your copy in {folder}")
    if version != __version__:
        output.say(
            f"it was made from retrain {version}, this is {__version__}: move it away and run `retrain man --path` for "
            "a new one"
        )


def find(query: str, *, as_json: bool, paged: bool) -> int:
    """Print what a query finds, the best first; return 1 when it is nothing, as grep does.

    Raises:
        ConfigError: there is nothing to look for.
    """
    from retrain.manual.search import search

    if not query.strip():
        raise ConfigError("--search needs words to look for", "retrain man --search WORDS")
    tell_of_copy()
    found = search(query)
    if as_json:
        output.document({"query": query, "replaced": found.replaced, "hits": list(map(as_data, found.hits))})
    else:
        show_hits(found, paged=paged)
    return 0 if found.hits else 1


def show_hits(found: Found, *, paged: bool) -> None:
    """Print what was found; say on stderr which words are nowhere, and what was looked for instead."""
    if sys.stdout.isatty() and found.hits:
        from retrain.cli import man_terminal

        man_terminal.show_hits(hit_lines(found), found.words, paged=paged)
    elif found.hits:
        print("\n\n".join("\n".join(lines) for lines in hit_lines(found)))
    for word, instead in found.replaced.items():
        meant = f"; looked for {instead}" if instead else ""
        output.say(f'"{word}" is nowhere in the manual{meant}')
    if not found.hits:
        output.say("nothing was found; retrain man lists the topics")


def as_data(hit: Hit) -> dict[str, Any]:
    """Return a hit as the JSON document has it."""
    entry = hit.entry
    return {
        "kind": entry.kind,
        "name": entry.name,
        "topic": entry.topic,
        "heading": entry.heading,
        "text": hit.excerpt,
        "command": entry.command,
    }


def hit_lines(found: Found) -> list[list[str]]:
    """Return each hit as lines: what it is and where it is explained, what it says, what to type."""
    told = []
    for hit in found.hits:
        entry = hit.entry
        place = " › ".join(filter(None, (entry.topic, entry.heading if entry.heading != entry.name else "")))
        flags = [name for name in entry.also if name.startswith("--")]
        about = ", ".join(filter(None, (entry.kind, flags[-1] if entry.kind == "key" and flags else "", place)))
        command = [f"    {entry.command}"] if entry.command else []
        told.append([f"{entry.name}  ({about})", f"    {hit.excerpt}", *command])
    return told


# --- the source -------------------------------------------------------------------------------------------------------


def show_path(topic: str, *, as_json: bool) -> None:
    """Print where the topics, or one of them, can be edited: of a read-only install in a copy, made if need be."""
    if topic:
        manual.file(topic)
    before = manual.copied()
    folder = manual.editable()
    path = folder / f"{topic}.md" if topic else folder
    if folder != manual.PACKAGED and before is None:
        output.say(f"{manual.PACKAGED} cannot be written to: this is a copy, which is read from now on")
    elif before is not None:
        tell_of_copy()
    if as_json:
        output.document({"path": str(path)})
    else:
        print(path)


def check(*, as_json: bool) -> None:
    """Compare what is generated with what it should be.

    Raises:
        Stale: where they differ.
    """
    stale = [
        Problem(message=f"the generated block {title} is stale", hint=MENDS, file=shown(path), line=line)
        for path, _, blocks in refreshed()
        for title, line in blocks
    ]
    if stale:
        raise Stale(stale)
    if as_json:
        output.document({"stale": []})
    else:
        output.say("every generated block is up to date")


def sync(*, as_json: bool) -> None:
    """Rewrite what is generated where it differs from what it should be, and print what has changed.

    Raises:
        ConfigError: the topics cannot be written to.
    """
    changed = refreshed()
    for path, text, _ in changed:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror}", "retrain man --path makes a copy"
            ) from error
    told = [
        {"file": shown(path), "line": line, "block": title} for path, _, blocks in changed for title, line in blocks
    ]
    if as_json:
        output.document({"changed": told})
        return
    for block in told:
        print(f"{block['file']}:{block['line']}: {block['block']}")
    if not told:
        output.say("every generated block is up to date")


def refreshed() -> list[tuple[Path, str, list[tuple[str, int]]]]:
    """Return each file that is stale, its text as it should be, and its stale blocks with the line of their mark.

    The index of the search, which only the package has, is one block, at its first line that differs.

    Raises:
        ConfigError: marks that are wrong, in all topics.
    """
    from retrain.cli import man_blocks, man_index
    from retrain.manual import marks

    found, problems = [], []
    for path in manual.files().values():
        try:
            text, stale = marks.filled(path.read_text(encoding="utf-8"), man_blocks.text_of, shown(path))
        except ConfigError as error:
            problems += error.problems
            continue
        except UnicodeDecodeError as error:
            problems.append(Problem(message=f"not UTF-8: {error.reason}", hint="save it as UTF-8", file=shown(path)))
            continue
        if stale:
            found.append((path, text, [(block.title, block.first) for block in stale]))
    if problems:
        raise ConfigError(problems)
    if manual.copied() is None:
        index, before = man_index.lines(), manual.INDEX.read_text(encoding="utf-8")
        if index != before:
            pairs = zip([*index.splitlines(), ""], [*before.splitlines(), ""], strict=False)
            first = next((number for number, (new, old) in enumerate(pairs, start=1) if new != old), 1)
            found.append((manual.INDEX, index, [("search-index", first)]))
    return found


def shown(path: Path) -> str:
    """Return a path, from here where it is below the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
