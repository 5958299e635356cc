"""Completions as one HTML file that needs nothing else: no network, no folder beside it.

The page is `rollouts.html`; the data are JSON inside it, and its script makes text nodes of them, never HTML.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from retrain.cli.progress import shown
from retrain.cli.rollouts_tokens import visible
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.cli.rollouts import View
    from retrain.cli.rollouts_tokens import Shown

DIGITS = 4  # significant ones of a number in a tooltip


def write(view: View, file: Path) -> None:
    """Write the page; what was there before is replaced.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file.write_text(page(view), encoding="utf-8")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{file} cannot be written: {reason}; --html FILE writes elsewhere") from error


def page(view: View) -> str:
    """Return the page."""
    template = resources.files("retrain.cli").joinpath("rollouts.html").read_text(encoding="utf-8")
    title = html.escape(f"{view.run.name} · step {view.step} · retrain rollouts")
    before, between, after = re.split("__TITLE__|__DATA__", template)
    return f"{before}{title}{between}{script_safe(document(view))}{after}"


def script_safe(value: Any) -> str:
    """Return JSON without the characters that could end a script element or begin a comment in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def document(view: View) -> dict[str, Any]:
    """Return what the page's script reads."""
    return {
        "run": shown(view.run),
        "step": view.step,
        "said": visible(view.said),
        "note": view.note,
        "signal": view.signal,
        "planning": view.planning,
        "top": {
            "advantage": short(view.advantage.top),
            "uncertainty": view.uncertainty and short(view.uncertainty.top),
        },
        "completions": [completion(item) for item in view.shown],
    }


def completion(item: Shown) -> dict[str, Any]:
    """Return one completion: its facts, and columns of numbers over its tokens."""
    row, pieces = item.row, item.pieces
    return {
        "task": visible(row["task_id"]),
        "group": row["group"],
        "rollout": row["rollout"],
        "prompt": visible(row["prompt"]),
        "answer": visible(row["answer"] or ""),
        "reward": short(row["reward"]),
        "parts": {visible(name): short(value) for name, value in row["reward_parts"].items()},
        "error": visible(row["error"] or ""),
        "finish": row["finish_reason"],
        "version": row["policy_version"],
        "text": visible(row["completion"]) if pieces is None else None,
        "pieces": None if pieces is None else [visible(piece.text) for piece in pieces],
        "first": None if pieces is None else [piece.first for piece in pieces],
        "ids": row["token_ids"],
        "logprobs": shorts(row["logprobs"]),
        "entropies": shorts(row["entropies"]),
        "advantages": shorts(row["advantages"]),
        "uncertainty": shorts(row["uncertainty"]),
        "planning": None if row["planning"] is None else [int(flag) for flag in row["planning"]],
    }


def shorts(values: Sequence[float | None] | None) -> list[float | None] | None:
    return None if values is None else [short(value) for value in values]


def short(value: float | None) -> float | None:
    """Return a number with few digits; None for none and for what JSON cannot hold."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None
