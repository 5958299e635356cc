"""Completions on a terminal, as colours; without colours, as marks and numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.text import Text

from retrain.cli.progress import shown
from retrain.cli.rollouts_tokens import finite, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.cli.rollouts import View
    from retrain.cli.rollouts_tokens import Piece, Scale, Shown

    RGB = tuple[int, int, int]

# A card of its own colour: strength then reads alike on dark and on light terminals.
CARD: RGB = (0x1D, 0x21, 0x28)
INK = "#e6e9ef"
POSITIVE: RGB = (0x23, 0x86, 0x36)
NEGATIVE: RGB = (0xC9, 0x32, 0x3A)
UNCERTAIN: RGB = (0x1F, 0x6F, 0xEB)
PROMPT_CHARACTERS = 600  # of a prompt that are shown; few-shot prompts would drown the completion


def show(view: View, console: Console | None = None) -> None:
    """Print a view on stdout: rich finds out what the terminal can do, and whether it is one."""
    console = console or Console(highlight=False)
    coloured = console.color_system is not None and not console.no_color

    def say(text: Text | str) -> None:
        console.print(text if isinstance(text, Text) else Text(text), highlight=False)

    say(f"{visible(shown(view.run))} · step {view.step} · {visible(view.said)}")
    for line in legend(view, coloured=coloured):
        say(line)
    group = None
    for completion in view.shown:
        if completion.row["group"] != group:
            group = completion.row["group"]
            say("")
            for line in heading(completion.row):
                say(line)
        say("")
        say(Text(facts(completion, view.scale), style="bold" if coloured else ""))
        if coloured:
            console.print(Padding(card(completion, view.scale), (0, 1), style=style_of(0.0, view.scale)))
        else:
            say(marked(completion))
            if len(set(finite(completion.row[view.scale.column]))) > 1 and completion.pieces:
                items = numbers(completion.pieces, completion.row, view.scale)
                say("\n".join(lines(["by token:", *items], console.width)))


def legend(view: View, *, coloured: bool) -> Iterator[Text]:
    """Yield the lines that say what colours and marks mean."""
    scale = view.scale
    if view.note:
        yield Text(f"tokens have no colour: {visible(view.note)}")
        return
    percent = "99th percentile" if view.signal else "largest |advantage|"
    ends = f"{scale.top:.3g}, the step's {percent}"
    if scale.top == 0:
        yield Text(f"every {scale.name} of this step is 0")
    elif coloured:
        low = 0 if view.signal else -4
        bar = Text(f"{scale.name}  ")
        bar.append("0 " if view.signal else f"{-scale.top:.3g} ")
        for level in range(low, 5):
            bar.append("   ", style=style_of(level / 4, scale))
        yield bar.append(f" {'' if view.signal else '+'}{ends}")
    else:
        yield Text(f"by token: {scale.name}, up to {ends}; equal neighbours are joined")
    if not view.planning:
        yield Text("planning tokens are not on file")
    elif coloured:
        yield Text.assemble(("planning tokens", "underline"), " are underlined")
    else:
        yield Text("«…» planning tokens")


def heading(row: Mapping[str, Any]) -> list[str]:
    """Return the task of a group: what was asked, and the answer where the data have one."""
    answer = f" · answer {visible(row['answer'])}" if row["answer"] else ""
    return [f"── task {visible(row['task_id'])} · group {row['group']}{answer}", shortened(visible(row["prompt"]))]


def shortened(text: str) -> str:
    if len(text) <= PROMPT_CHARACTERS:
        return text
    half = PROMPT_CHARACTERS // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters…] {text[-half:]}"


def facts(completion: Shown, scale: Scale) -> str:
    """Return the line above a completion: reward and parts, how it ended, its length, what its tokens got."""
    row = completion.row
    parts = ", ".join(f"{visible(name)} {value:.4g}" for name, value in row["reward_parts"].items())
    reward = "unscorable" if row["reward"] is None else f"reward {row['reward']:.4g}"
    error = [visible(row["error"])] if row["error"] else []
    length = len(row["token_ids"])
    return " · ".join(
        [
            f"rollout {row['rollout']}",
            f"{reward} ({parts})" if parts else reward,
            *error,
            row["finish_reason"],
            f"{length} token{'' if length == 1 else 's'}",
            *([spread_of(finite(row[scale.column]), scale)] if length else []),
        ]
    )


def spread_of(values: Sequence[float], scale: Scale) -> str:
    """Say what the tokens of a completion got: ``advantage +0.5 on every token``."""
    if not values:
        return f"no {scale.name} on file"
    low, high, mean = min(values), max(values), sum(values) / len(values)
    if low == high:
        return f"{scale.name} {number(low, scale)} on every token"
    none = sum(value == 0 for value in values) / len(values)
    zeros = f", 0 on {none:.0%}" if none else ""
    return f"{scale.name} {number(low, scale)} to {number(high, scale)}, mean {number(mean, scale)}{zeros}"


def number(value: float, scale: Scale) -> str:
    return f"{value:+.3g}" if scale.column == "advantages" and value else f"{value:.3g}"


# --- in colour ------------------------------------------------------------------------------------------------------


def card(completion: Shown, scale: Scale) -> Text:
    """Return a completion's text with the colour of each token, a sign where a line ends."""
    row, pieces = completion.row, completion.pieces
    if pieces is None:
        return Text(visible(row["completion"]))
    if not pieces:
        return Text("(no tokens)", style="dim")
    text = Text(no_wrap=False, overflow="fold")
    for piece in pieces:
        style = style_of(scale.share(piece.value(row[scale.column])), scale)
        if piece.value(row["planning"]):
            style += Style(underline=True)
        text.append(visible(piece.text).replace("\n", "⏎\n").replace("\t", "→   "), style=style)
    return text


def style_of(share: float, scale: Scale) -> Style:
    """Return a token's colours: the card's own at 0, the full colour at ±1."""
    end = UNCERTAIN if scale.column == "uncertainty" else POSITIVE if share > 0 else NEGATIVE
    weight = 0.2 + 0.8 * abs(share) if share else 0.0  # the weakest colour is still one
    mixed = [round(a + weight * (b - a)) for a, b in zip(CARD, end, strict=True)]
    return Style.parse(f"{INK} on #{mixed[0]:02x}{mixed[1]:02x}{mixed[2]:02x}")


# --- without colour -------------------------------------------------------------------------------------------------


def marked(completion: Shown) -> str:
    """Return a completion's text with planning tokens between « and »."""
    if completion.pieces is None:
        return visible(completion.row["completion"])
    text, inside = "", False
    for piece in completion.pieces:
        planning = bool(piece.value(completion.row["planning"]))
        if planning != inside:
            text += "«" if planning else "»"
        inside = planning
        text += visible(piece.text)
    return text + "»" * inside


def numbers(pieces: Sequence[Piece], row: Mapping[str, Any], scale: Scale) -> list[str]:
    """Return every token with its value, equal neighbours joined: ``"17+25=" +0.5``, ``"4" -0.1``."""
    runs: list[tuple[str, str]] = []
    for piece in pieces:
        value = piece.value(row[scale.column])
        said = "none" if value is None else number(value, scale)
        if runs and runs[-1][1] == said:
            runs[-1] = (runs[-1][0] + piece.text, said)
        else:
            runs.append((piece.text, said))
    return [f"{json.dumps(visible(text), ensure_ascii=False)} {said}" for text, said in runs]


def lines(items: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of whole items, as many as fit into `width` cells."""
    line = ""
    for item in items:
        longer = f"{line}  {item}" if line else item
        if line and cell_len(longer) > width:
            yield line
            longer = item
        line = longer
    yield line
