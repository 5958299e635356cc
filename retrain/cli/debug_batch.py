"""`retrain debug-batch FILE`: why a step's loss or gradient was not finite."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.cli import extras, output
from retrain.cli.flags import parse
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.replay import BadToken, Replay

SHOWN = 5  # of each kind; --json has all
TEXT_CHARACTERS = 60


def main(arguments: Sequence[str]) -> int:
    """Replay one kept batch.

    Raises:
        ConfigError: no such file, or the run it belongs to cannot be loaded here.
    """
    flags, positional = parse("debug-batch", arguments)
    if len(positional) != 1:
        given = f"got {len(positional)}: {' '.join(positional)}" if positional else "none was given"
        raise ConfigError(f"retrain debug-batch takes one FILE, {given}", "retrain debug-batch --help")
    file = Path(positional[0])
    if not file.is_file():
        raise ConfigError(f"there is no file {file}", _others(file))
    extras.require("local", "replaying a batch")
    from retrain.replay import replay

    found = replay(file, ["--devices", flags["--devices"]] if "--devices" in flags else [])
    if "--json" in flags:
        document = {**asdict(found), "first": found.first, "to_blame": found.to_blame}
        output.document(_as_json(document))
    else:
        print("\n".join(report(found)))
    return 0


def _others(file: Path) -> str:
    """Return which batches were kept where this one is not."""
    folder = file if file.is_dir() else file.parent
    kept = sorted({*folder.glob("*.pt"), *folder.glob("debug/*.pt")})
    return f"kept batches: {', '.join(map(str, kept))}" if kept else "a run keeps RUN/debug/step-N.pt when a loss fails"


def _as_json(value: Any) -> Any:
    """Write numbers that are not finite as text: JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _as_json(held) for name, held in value.items()}
    return [_as_json(held) for held in value] if isinstance(value, list) else value


def report(found: Replay) -> Iterator[str]:
    """Yield the lines of the answer: what it was, where it began, and what each stage looks like."""
    yield f"{found.file}: step {found.step + 1}, replayed in {found.dtype} on {found.device}"
    yield f"  then: {found.reason}"
    yield f"  now:  the loss is {found.loss:g}, the gradient norm {found.grad_norm:g}"
    yield ""
    if not found.first:
        yield "everything is finite in this replay: another device, number format or library, or dropout, made it so"
    else:
        yield f"not finite first: {found.first}"
    yield from _details(found)
    yield ""
    if any(math.isfinite(gradient.norm) for gradient in found.gradients):
        yield "largest gradients of parameters:"
        largest = [gradient for gradient in found.gradients if math.isfinite(gradient.norm)]
        yield from (f"  {gradient.norm:>10.3g}  {gradient.name}" for gradient in largest[:SHOWN])
    rows = sorted((row for row in found.rows if row.is_finite), key=lambda row: row.grad_norm, reverse=True)
    if rows:
        yield "largest gradients of completions:"
        yield from (f"  {row.grad_norm:>10.3g}  row {row.row}: {_short(row.text)}" for row in rows[:SHOWN])


def _details(found: Replay) -> Iterator[str]:
    for bad in found.inputs:
        yield f"  input {bad.name}: {_rows(bad.rows) if bad.rows else 'the number itself'}"
    yield from _some([f"  weight {w.name}: {w.num_bad} of {w.num_values} values" for w in found.weights], "weights")
    if found.module:
        yield f"  first module with such an output: {found.module}"
    yield from _some([f"  log-probability {_token(token)}" for token in found.logprobs], "tokens")
    blamed = [row for row in found.rows if not row.is_finite]
    if blamed:
        yield f"  completions with such a loss or gradient: {len(blamed)} of {len(found.rows)}"
    lines = [f"    row {r.row}: loss {r.loss:g}, gradient {r.grad_norm:g}: {_short(r.text)}" for r in blamed]
    yield from _some(lines, "rows")
    names = [gradient.name for gradient in found.gradients if not math.isfinite(gradient.norm)]
    if names:
        yield f"  parameters with such a gradient: {len(names)} of {len(found.gradients)}"
        yield from _some([f"    {name}" for name in names], "parameters")


def _some(lines: Sequence[str], what: str) -> Iterator[str]:
    yield from lines[:SHOWN]
    if len(lines) > SHOWN:
        yield f"    … and {len(lines) - SHOWN} more {what}; --json has all"


def _rows(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:SHOWN]))}{more}"


def _token(token: BadToken) -> str:
    place = f"{token.logprob:g} in row {token.row} at token {token.position}"
    return f"{place}: {_quoted(token.before)} » {_quoted(token.text)} « {_quoted(token.after)}"


def _quoted(text: str) -> str:
    return text.encode("unicode_escape").decode() if not text.isprintable() else text


def _short(text: str) -> str:
    shown = text if len(text) <= TEXT_CHARACTERS else f"{text[:TEXT_CHARACTERS]}…"
    return _quoted(shown)
