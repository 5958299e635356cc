"""`retrain compare`: is A better than B, and how sure is that."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.cli import extras, output, search_table
from retrain.cli.flags import parse
from retrain.cli.status_view import Style, visible
from retrain.errors import ConfigError
from retrain.references import find_either, is_campaign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.compare import Verdicts
    from retrain.ranking import Ranking

HELP = "retrain compare --help"
COLOURS = {"better": 32, "worse": 31, "equivalent": 36}  # ANSI


def main(arguments: Sequence[str]) -> int:
    """Compare the conditions of a campaign, or runs and campaigns with each other.

    Raises:
        ConfigError: no such run or campaign, nothing to compare, an unknown key or flag, or no file.
    """
    flags, given = parse("compare", arguments)
    if not given:
        raise ConfigError("retrain compare takes a campaign, or several runs", HELP)
    if flags.get("--failures", "floor") != "floor":
        raise ConfigError(f'--failures is "floor" or left out, got "{flags["--failures"]}"', HELP)
    extras.require("tracking", "comparing runs")
    places = [find_either(reference) for reference in given]

    from retrain import compare, ranking

    if len(places) == 1 and "--by" not in flags and is_campaign(places[0]) and ranking.is_search(places[0]):
        return ranked(ranking.load(places[0], flags.get("--metric", "")), flags)
    by = [key.strip() for key in flags.get("--by", "").split(",") if key.strip()]
    study = compare.load(places, flags.get("--metric", ""), by=by, floor="--failures" in flags)
    study = replace(study, looks=[*study.looks, *record_looks(places)])
    verdicts = compare.judge(study)
    where = written(verdicts, places, flags)
    if "--json" in flags:
        output.document(compare.document(verdicts))
    else:
        print(text(verdicts, Style.of(sys.stdout), where))
    return 0


def ranked(found: Ranking, flags: dict[str, str]) -> int:
    """Show the trials of a search, best first.

    Raises:
        ConfigError: no file can be written where one is asked for.
    """
    from retrain import ranking, report

    where = found.directory / "report.html"
    if "--html" in flags:
        where = Path(flags["--html"])
        written_to(where, report.ranking_page(found))
    elif "--metric" not in flags and found.state != "running":
        report.write_ranking(found)
    if "--json" in flags:
        output.document(ranking.document(found))
    else:
        print(search_table.text(found, Style.of(sys.stdout), str(where) if where.is_file() else ""))
    return 0


def record_looks(places: Sequence[Path]) -> list[dict[str, Any]]:
    """Note in campaigns that somebody has compared before their end: a verdict that was waited for is worth less.

    A folder that cannot be written keeps no note, and what is shown counts this look all the same.
    """
    looks = []
    for place in filter(is_campaign, places):
        states = [run["state"] for run in json.loads((place / "manifest.json").read_text(encoding="utf-8"))["runs"]]
        done = states.count("done")
        if done + states.count("failed") == len(states):
            continue
        look = {"time": round(time.time(), 3), "done": done, "planned": len(states)}
        looks.append(look)
        with contextlib.suppress(OSError), (place / "looks.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(look) + "\n")
    return looks


def written(verdicts: Verdicts, places: Sequence[Path], flags: dict[str, str]) -> str:
    """Write the page where that is asked for, or the report of a campaign that has ended; return where it is.

    A campaign that goes on writes its own.
    """
    from retrain import report

    if "--html" in flags:
        written_to(Path(flags["--html"]), report.page(verdicts))
        return flags["--html"]
    [place, *others] = places
    if others or not is_campaign(place):
        return ""
    changed = any(name in flags for name in ("--metric", "--by", "--failures"))
    if not changed and verdicts.study.manifest.get("state") != "running":
        report.write(place)
    return str(place / "report.html") if (place / "report.html").is_file() else ""


def written_to(file: Path, page: str) -> None:
    """Write a page where the user wants it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{file} cannot be written: {reason}; --html FILE writes elsewhere") from error


# --- what is shown ----------------------------------------------------------------------------------------------------


def text(verdicts: Verdicts, style: Style, where: str) -> str:
    """Return the answer for a terminal: the verdict, a table, what to be careful with."""
    found = verdicts.study
    lines = [*style.fold(verdicts.headline, ""), ""]
    lines += table(condition_rows(verdicts), style)
    lines.append("")
    for c in verdicts.comparisons:
        lines += style.fold(c.sentence, "  ")
    lines += ["", *other_problems(verdicts, style)]
    if verdicts.secondary:
        lines += ["", "secondary: no correction, no verdict; in brackets 95 % of the difference"]
        lines += table(secondary_rows(verdicts), style)
    lost = [run for run in found.runs if run.state == "failed"]
    for run in lost:
        lines += style.fold(f"failed: {run.name}: {visible(run.exit_reason.strip().partition(chr(10))[0])}", "  ")
    for run in found.runs:
        if run.state == "done" and found.final(run) is None:
            lines += style.fold(f"lost: {run.name} is done, and has no {found.metric} at its last step", "  ")
    for warning in verdicts.warnings:
        lines += style.fold(f"warning: {warning}", "")
    if found.looks:
        times = "once" if len(found.looks) == 1 else f"{len(found.looks)} times"
        lines.append(f"looked at {times} before the end")
    return "\n".join([*lines, *(["", f"report: {where}"] if where else [])])


def condition_rows(verdicts: Verdicts) -> list[list[str]]:
    family = ", jointly" if len(verdicts.comparisons) > 1 else ""
    holm = ", Holm" if family else ""
    rows = [["condition", "runs", verdicts.study.metric, "95 %", "difference", f"95 %{family}", f"p{holm}", "verdict"]]
    others = {c.label: c for c in verdicts.comparisons}
    for one in verdicts.conditions:
        row = [one.label, f"{one.finished}/{one.planned}", number(one.mean), span(one.low, one.high)]
        c = others.get(one.label)
        if c is None:
            row += ["baseline", "", "", ""]
        else:
            p = "-" if not math.isfinite(c.p_holm) else f"{c.p_holm:.2g}"
            row += [signed(c.difference), span(c.low, c.high, sign=True), p, c.verdict]
        rows.append(row)
    return rows


def other_problems(verdicts: Verdicts, style: Style) -> list[str]:
    """Return the intervals for seeds and problems together, or why there are none."""
    known = verdicts.problems
    if known.reason:
        return style.fold(f"these intervals are about other seeds, not about other problems: {known.reason}", "")
    dropped = f" ({known.left_out} more could not be scored in all runs)" if known.left_out else ""
    family = ", jointly" if len(verdicts.comparisons) > 1 else ""
    rows = [["condition", f"95 %{family}"]]
    rows += [[c.label, span(c.problems_low, c.problems_high, sign=True)] for c in verdicts.comparisons]
    n = known.count
    what = f"on other problems like these {n}{dropped}, with other seeds; above: with other seeds on these {n}"
    return [*style.fold(what, ""), *table(rows, style)]


def secondary_rows(verdicts: Verdicts) -> list[list[str]]:
    """Return a row for each condition, for conditions may be many and measures are few."""
    rows = [["condition", *(one.name for one in verdicts.secondary)]]
    for label in verdicts.study.labels:
        cells = []
        for one in verdicts.secondary:
            difference = one.differences.get(label)
            more = f" ({span(difference[1], difference[2], sign=True)})" if difference else ""
            cells.append(number(one.means[label]) + more)
        rows.append([label, *cells])
    return rows


def table(rows: Sequence[Sequence[str]], style: Style) -> list[str]:
    """Lay cells out in columns: the first and the last to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for number_of_row, row in enumerate(rows):
        last = len(row) - 1
        cells = [c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        code = 2 if number_of_row == 0 else COLOURS.get(row[last])
        lines.append(style.paint("  ".join(cells).rstrip(), code))
    return lines


def number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "-"


def signed(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return "0" if abs(value) < 1e-300 else f"{value:+.4g}"


def span(low: float, high: float, *, sign: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    form = signed if sign else number
    return f"{form(low)} to {form(high)}"
