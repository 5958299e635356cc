"""`retrain explain --diff OTHER`: in which keys two configs differ, and where each value comes from."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from retrain.cli import output
from retrain.cli.campaign_plan import number_of
from retrain.cli.explain import masked, origin_of, shown, value_of
from retrain.config import compose
from retrain.config.origins import DEFAULT
from retrain.config.schema import KEYS, Campaign

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from retrain.config import Composed
    from retrain.config.origins import Origin


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One key with two values. A source of None: that side has no [campaign]."""

    key: str
    here: Any
    there: Any
    here_source: Origin | None
    there_source: Origin | None


def show(path: Path, overrides: Sequence[str], other: Path, *, as_json: bool) -> int:
    """Print what differs; the command line is of the first one.

    Raises:
        ConfigError: what is wrong with either of them.
    """
    with output.timed("composing both"):
        here, there = compose(path, overrides), compose(other)
    found = [*differences(here, there), *campaign_differences(here, there)]
    if as_json:
        entries = [masked_entry(difference) for difference in found]
        output.document({"kind": "diff", "here": str(path), "there": str(other), "diff": entries})
    else:
        print(text(found, str(path), str(other), overrides=bool(overrides)))
    return 0


def differences(here: Composed, there: Composed) -> Iterator[Difference]:
    """Yield every key of a run's config that has two values, in the schema's order."""
    for dotted in KEYS:
        if value_of(here, dotted) != value_of(there, dotted):
            yield Difference(
                key=dotted,
                here=value_of(here, dotted),
                there=value_of(there, dotted),
                here_source=origin_of(here, dotted),
                there_source=origin_of(there, dotted),
            )


def campaign_differences(here: Composed, there: Composed) -> Iterator[Difference]:
    """Yield every key of [campaign] that has two values; where one side has none, those that the other one sets."""
    sides = (here.campaign, there.campaign)
    given = {name for side in sides if side is not None for name in side.origins}
    for name in (field.name for field in fields(Campaign)):
        values = [None if side is None else getattr(side.values, name) for side in sides]
        sources = [None if side is None else side.origins.get(name, DEFAULT) for side in sides]
        if values[0] != values[1] and (None not in sides or name in given):
            yield Difference(
                key=f"campaign.{name}",
                here=values[0],
                there=values[1],
                here_source=sources[0],
                there_source=sources[1],
            )


def masked_entry(difference: Difference) -> dict[str, Any]:
    """Return a difference for a program, without secrets."""
    key = difference.key
    return {
        **asdict(difference),
        "here": masked(difference.here, key),
        "there": masked(difference.there, key),
    }


def text(found: Sequence[Difference], here: str, there: str, *, overrides: bool) -> str:
    """Return the differences for a person."""
    named = f"{here} with the command line" if overrides else here
    if not found:
        return f"{named} and {there} are the same config: all {len(KEYS)} keys are equal"
    width = output.columns(sys.stdout)
    parts = [
        "\n".join(output.fold(f"{named} (here) and {there} (there) differ in {number_of(len(found), 'key')}:", width))
    ]
    for difference in found:
        lines = [f"  {difference.key}"]
        sides = {"here": difference.here_source, "there": difference.there_source}
        for side, source in sides.items():
            value = shown(getattr(difference, side), difference.key)
            said = f"{side:<5}  {value}  ({source})" if source is not None else f"{side:<5}  no [campaign]"
            lines += output.fold(said, width, "    ", " " * 11)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
