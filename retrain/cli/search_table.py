"""How the trials of a search look: a table, best first, and what to be careful with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.cli.status_view import visible

if TYPE_CHECKING:
    from retrain.cli.status_view import Style
    from retrain.ranking import Ranking, Trial


def text(found: Ranking, style: Style, where: str) -> str:
    """Return the ranking for a terminal."""
    lines = [*style.fold(visible(found.headline), ""), "", *table(found, style), ""]
    for trial in found.of("failed"):
        lines += style.fold(visible(f"failed: {short(trial)}: {trial.reason}"), "  ")
    for warning in found.warnings():
        lines += style.fold(f"warning: {warning}", "")
    if found.again:
        lines += ["", "the best against what the search started from, on new seeds:", f"  {found.again}"]
    return "\n".join([*lines, *(["", f"report: {where}"] if where else [])])


def table(found: Ranking, style: Style) -> list[str]:
    """Lay the trials out in columns: the first and the last to the left, numbers to the right."""
    spread = len(found.seeds) > 1
    rows = [["trial", found.metric, *(["over seeds"] if spread else []), *found.names, "state"]]
    for trial in found.trials:
        value = "-" if trial.value is None else f"{trial.value:.4g}"
        seeds = [f"{min(trial.by_seed.values()):.4g} to {max(trial.by_seed.values()):.4g}" if trial.by_seed else "-"]
        values = [visible(str(each)) for each in trial.values.values()]
        rows.append([short(trial), value, *(seeds if spread else []), *values, trial.state])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for number, row in enumerate(rows):
        pairs = list(zip(row, widths, strict=True))
        cells = [pairs[0][0].ljust(pairs[0][1]), *(cell.rjust(width) for cell, width in pairs[1:-1]), row[-1]]
        lines.append(style.paint("  ".join(cells), 2 if number == 0 else None))
    return lines


def short(trial: Trial) -> str:
    """Return the number of a trial, which stands before what it sets."""
    return trial.label.partition(",")[0]
