"""`retrain fetch CONFIG`: bring everything that a run reads onto this machine, for nodes without network."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from retrain.cli import extras, output
from retrain.cli.derived import bytes_text
from retrain.cli.explain import split_config
from retrain.cli.flags import take_own
from retrain.data.source import NOT_OF_THE_HUB
from retrain.errors import ConfigError, Problem, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from retrain.config import Composed
    from retrain.config.schema import RunConfig
    from retrain.hub import Fetched


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a run reads.

    state: "local" (nothing to fetch), "already there" or "downloaded"; bytes: how many were downloaded
    """

    kind: str
    name: str
    state: str
    bytes: int
    place: str
    note: str = ""


def main(arguments: Sequence[str]) -> int:
    """Fetch what one config needs, and say what became of each part.

    Raises:
        ConfigError: the config is wrong.
        RunError: something could not be had: everything that could not, after the rest was fetched.
    """
    switches, rest = take_own("fetch", arguments)
    path, overrides = split_config(rest)
    from retrain.config import compose

    composed = compose(path, overrides)
    extras.require("local", "fetching models and data")
    found: list[Item] = []
    problems: list[Problem] = []
    with contextlib.redirect_stdout(sys.stderr):  # libraries print
        for get in (fetch_model, fetch_adapter, fetch_data):
            try:
                found += get(composed)
            except ConfigError as error:
                problems += error.problems
    if "--json" not in switches:
        print("\n".join(map(line, found)))
    if problems:
        raise RunError(problems)
    if "--json" in switches:
        output.document({"items": [asdict(item) for item in found]})
    return 0


def line(item: Item) -> str:
    """Say what became of one thing."""
    said = {
        "local": "nothing to fetch",
        "already there": f"already there: {item.place}",
        "downloaded": f"downloaded {bytes_text(item.bytes)}: {item.place}",
    }
    return f"{item.kind:<8} {item.name}  {said[item.state]}{f' ({item.note})' if item.note else ''}"


def fetch_model(composed: Composed) -> list[Item]:
    """Fetch the model with its tokenizer."""
    from retrain import hub

    model = composed.config.model
    return [_of_hub("model", model.model, hub.model_folder(model), lambda: hub.fetch_model(model))]


def fetch_adapter(composed: Composed) -> list[Item]:
    """Fetch the adapter to start from, if there is one."""
    from retrain import hub

    model = composed.config.model
    if not model.adapter:
        return []
    return [_of_hub("adapter", model.adapter, hub.adapter_folder(model), lambda: hub.fetch_adapter(model))]


def _of_hub(kind: str, name: str, folder: Path | None, fetch: Callable[[], Fetched]) -> Item:
    if folder is not None:
        return Item(kind=kind, name=name, state="local", bytes=0, place=str(folder))
    done = fetch()
    state = "downloaded" if done.downloaded_bytes else "already there"
    note = "" if done.reached else "the hub was not asked"
    return Item(kind=kind, name=name, state=state, bytes=done.downloaded_bytes, place=str(done.folder), note=note)


def fetch_data(composed: Composed) -> list[Item]:
    """Fetch all data, that of `[eval]` too, through the loading of a run: the cache is what a run reads."""
    config = composed.config
    name = named(config)
    if all(source in NOT_OF_THE_HUB for source in sources(config)):
        return [Item(kind="data", name=name, state="local", bytes=0, place="")]
    from retrain import data
    from retrain.data.hub import cache, cache_only

    try:
        with cache_only():
            data.load(config, composed.places)
        return [Item(kind="data", name=name, state="already there", bytes=0, place=str(cache()[0]))]
    except ConfigError:
        _, before = cache()
    data.load(config, composed.places)
    with cache_only():  # a source that cannot do without the network fails now, not on the node
        data.load(config, composed.places)
    place, after = cache()
    return [Item(kind="data", name=name, state="downloaded", bytes=after - before, place=str(place))]


def sources(config: RunConfig) -> list[str]:
    """Return the data sources that a run reads."""
    return [config.data.source, *([config.eval.source] if config.eval.source else [])]


def named(config: RunConfig) -> str:
    """Return what a run reads, for people."""
    data, held_out = config.data, config.eval
    parts = [(data.source, data.name), *([(held_out.source, held_out.name)] if held_out.source else [])]
    return ", ".join(" ".join(filter(None, pair)) for pair in parts)
