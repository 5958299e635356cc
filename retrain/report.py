"""The report of a campaign: one page that someone can mail, and the numbers for other programs.

    report.html    the question, the verdict, figures, config differences, every run, how to repeat; needs nothing else
    results.csv    a line for each run                results.json   everything (`retrain.compare.document`)
    results.tex    a table for a paper (booktabs)

It may be written at any time, also while runs go on or when some have failed. Of a search the page ranks its trials,
and best.toml is the campaign that finds out whether the best is better; a table for a paper would say too much.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
import shlex
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

from retrain import __version__, compare, figures, money, ranking, seeds
from retrain.errors import RetrainError
from retrain.store import write_atomically
from retrain.study import Study, differing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jinja2 import Template

    from retrain.compare import Comparison, Verdicts
    from retrain.ranking import Ranking

FILES = ("report.html", "results.csv", "results.json", "results.tex")
PANELS = {
    "reward/mean": "Training reward",
    "reward/correct_rate": "Share of correct completions",
    "entropy/mean": "Entropy (nats)",
    "completion/length_mean": "Completion length (tokens)",
    "policy/kl": "KL to the start",
}
LONGEST = 120  # characters of a config value or an exit reason


def write(directory: Path) -> None:
    """Write the report of a campaign into its directory; what was there is replaced.

    A campaign with one condition has nothing to compare: its report says so.
    """
    if ranking.is_search(directory):
        write_ranking(ranking.load(directory))
        return
    try:
        verdicts = compare.judge(compare.load([directory]))
    except RetrainError as error:
        write_atomically(
            directory / "report.html", _template("nothing.html").render(name=directory.name, why=str(error))
        )
        return
    document = json.dumps(compare.document(verdicts), indent=1, ensure_ascii=False, allow_nan=False)
    texts = (page(verdicts), as_csv(verdicts), f"{document}\n", as_latex(verdicts))
    for name, text in zip(FILES, texts, strict=True):
        write_atomically(directory / name, text)


def page(verdicts: Verdicts) -> str:
    """Return report.html."""
    found = verdicts.study
    panels = {found.metric: found.metric} | {key: title for key, title in PANELS.items() if key != found.metric}
    drawn = [(title, key, svg) for key, title in panels.items() if (svg := figures.curves(found, key, title))]
    return _template("report.html").render(
        v=verdicts,
        found=found,
        colours=[f"c{i % figures.COLOURS}" for i in range(len(found.labels))],
        question=question(found),
        curves=drawn,
        dots=figures.dots(verdicts.conditions, found.metric),
        forest=figures.forest(verdicts.comparisons, found.min_effect),
        matrix=matrix(verdicts),
        methods=methods(verdicts),
        differences=config_differences(found),
        document=compare.document(verdicts),
        repeat=repeat(found),
        cost=cost(found),
        version=__version__,
    )


@functools.cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "signed": signed, "pvalue": pvalue, "short": short, "moment": moment}
    return environment.from_string(resources.files("retrain").joinpath("pages", name).read_text(encoding="utf-8"))


# --- its parts --------------------------------------------------------------------------------------------------------


def question(found: Study) -> str:
    """Say what the campaign is to find out."""
    others = list(found.labels[1:])
    what = others[0] if len(others) == 1 else f"any of {len(others)} conditions"
    aim = f" A difference of {found.min_effect:g} matters." if found.min_effect else ""
    return f"Is {what} better than {found.baseline} in {found.metric} at the last step?{aim}"


def matrix(verdicts: Verdicts) -> list[list[tuple[float, float, float] | None]]:
    """Return the probability of improvement of each condition (row) over each other one, with its interval."""
    rows = []
    for one in verdicts.conditions:
        row = []
        for other in verdicts.conditions:
            shared = [] if one is other else sorted(one.values.keys() & other.values.keys())
            row.append(seeds.improvement([one.values[s] - other.values[s] for s in shared]) if shared else None)
        rows.append(row)
    return rows


def config_differences(found: Study) -> list[tuple[str, list[str]]]:
    """Return the config keys that differ, with the value in each condition; several values of one are joined."""
    rows = []
    for key in differing(found.runs):
        values = []
        for label in found.labels:
            seen = {json.dumps(run.config.get(key), ensure_ascii=False) for run in found.of(label) if run.config}
            values.append(short(" | ".join(sorted(seen))))
        rows.append((key, values))
    return rows


def repeat(found: Study) -> list[str]:
    """Return the commands that repeat the campaign; none where it is not one."""
    manifest = found.manifest
    if not manifest:
        return []
    command = [str(word) for word in manifest.get("command", [])]
    again = shlex.join(["retrain", *command[1:]]) if command else f"retrain {manifest.get('source', '')}"
    return [again, f"retrain compare {shlex.quote(str(found.runs[0].directory.parents[1]))}"]


def cost(found: Study) -> str:
    """Say what the runs have spent so far."""
    tokens = sum(run.total(compare.TOKENS) for run in found.runs)
    hours = sum(run.total(compare.SECONDS) for run in found.runs) / 3600
    amounts = money.spent(run.directory for run in found.runs)
    paid = f"; {money.text(amounts)}" if amounts else ""
    steps = f"{tokens:,.0f} tokens generated and {hours:.2g} hours of steps, over all runs"
    return f"{steps}{paid}{_conducted(found.manifest)}"


def _conducted(manifest: Mapping[str, Any]) -> str:
    """Say how long a campaign was at work, and from start to end; nothing while it goes on."""
    created, opened, ended = (manifest.get(name) for name in ("created", "opened", "ended"))
    if created is None or opened is None or ended is None:
        return ""
    active = manifest.get("active_seconds", 0.0) + ended - opened
    return f"; the campaign was at work for {active / 3600:.2g} hours, {(ended - created) / 3600:.2g} from start to end"


def methods(verdicts: Verdicts) -> str:
    """Return the paragraph that states what was done."""
    found, k = verdicts.study, len(verdicts.comparisons)
    sizes = sorted({len(c.seeds) for c in verdicts.comparisons})
    n = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    done, lost = sum(c.finished for c in verdicts.conditions), sum(c.lost for c in verdicts.conditions)
    were = "condition was" if k == 1 else "conditions were"
    family = (
        f" for all {k} together by Holm's method; intervals are Bonferroni's, at {100 - 5 / k:.4g}% each, and end at 0 "
        "where only Holm's later steps reject"
    )
    primary = (
        f"The seed is the unit of replication. {len(found.runs)} runs were planned; {done} finished and {lost} were "
        f"lost. The primary metric is {found.metric} at the planned last step of each run. Conditions are shown with "
        f"their mean and 95% t-interval over seeds. {k} {were} compared with {found.baseline} by paired t-tests on the "
        f"{n} common seeds, two-sided at 5%{'' if k == 1 else family}."
    )
    parts = [primary]
    if found.min_effect:
        parts.append(
            f"A difference of {found.min_effect:g} was declared to matter; a condition is called equivalent where its "
            "interval lies within that margin (where the difference is significant: an interval at "
            f"{100 - 1 / k:.4g}%)."
        )
    if found.floor:
        parts.append("Lost runs count with the lowest value of any finished run, or 0 if that is lower.")
    parts.append(
        "The probability of improvement is the share of common seeds on which a condition is ahead, ties counting "
        "half, with Clopper and Pearson's 95% interval. Detectable differences are those that the first step of the "
        "test sees with 80% power, from the noncentral t distribution and the observed spread of paired differences."
    )
    parts.append(_problems_in_words(verdicts))
    if found.looks:
        times = "once" if len(found.looks) == 1 else f"{len(found.looks)} times"
        parts.append(f"The comparison was looked at {times} before all runs had ended.")
    return " ".join(parts)


def _problems_in_words(verdicts: Verdicts) -> str:
    known = verdicts.problems
    if known.reason:
        return f"Problems were not resampled: intervals are about other seeds, not other problems ({known.reason})."
    dropped = f" ({known.left_out} more could not be scored in every run)" if known.left_out else ""
    return (
        f"All runs answered the same {known.count} evaluation problems{dropped}. Beside the interval over seeds, which "
        "is about other seeds on these problems and which verdicts rest on, one for other seeds on other problems like "
        "these is given at the same level: seeds and problems are crossed random factors of the paired differences, "
        "with the mean squares of their two-way table and the degrees of freedom of Hillis (Statistics in Medicine 26, "
        "2007)."
    )


# --- of a search ------------------------------------------------------------------------------------------------------


def write_ranking(found: Ranking) -> None:
    """Write the report of a search into its directory, and the campaign that tries its best trial again."""
    document = json.dumps(ranking.document(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(found.directory / "report.html", ranking_page(found))
    write_atomically(found.directory / "results.csv", ranking_csv(found))
    write_atomically(found.directory / "results.json", f"{document}\n")
    ranking.write_best(found)


def ranking_page(found: Ranking) -> str:
    """Return report.html of a search."""
    best = [trial.label for trial in found.valued[: figures.COLOURS]]
    shown = Study(
        name=found.name, metric=found.metric, baseline="", min_effect=0.0, labels=best, runs=found.runs,
        manifest=found.manifest,
    )  # fmt: skip
    panels = {found.metric: found.metric} | {key: title for key, title in PANELS.items() if key != found.metric}
    values = [trial.value for trial in found.valued if trial.value is not None]
    return _template("search.html").render(
        found=found,
        warnings=found.warnings(),
        colours={label: f"c{i}" for i, label in enumerate(best)},
        scatters=[
            (name, figures.scatter([trial.values[name] for trial in found.valued], values, name, found.metric))
            for name in found.names
            if len(values) > 1
        ],
        curves=[(title, key, svg) for key, title in panels.items() if (svg := figures.curves(shown, key, title))],
        repeat=repeat(shown) if found.runs else [],
        cost=cost(shown),
        version=__version__,
    )


def ranking_csv(found: Ranking) -> str:
    """Return results.csv of a search: a line for each trial, best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "value", "state", "seeds", *found.names, "reason"])
    for trial in found.trials:
        row = [trial.label, "" if trial.value is None else trial.value, trial.state, len(trial.by_seed)]
        writer.writerow([*row, *(trial.values[name] for name in found.names), trial.reason])
    return text.getvalue()


# --- tables for other programs ----------------------------------------------------------------------------------------


def as_csv(verdicts: Verdicts) -> str:
    """Return results.csv: a line for each run, also for those that are not done."""
    rows = compare.document(verdicts)["runs"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(verdicts: Verdicts) -> str:
    """Return results.tex: one booktabs table."""
    found = verdicts.study
    by_label = {c.label: c for c in verdicts.comparisons}
    rows = []
    for one in verdicts.conditions:
        cells = [latex(one.label), f"{one.finished}/{one.planned}", f"${number(one.mean)}$", _range(one.low, one.high)]
        other = by_label.get(one.label)
        cells += [r"\textit{baseline}", "", "", ""] if other is None else _latex_difference(other)
        if not verdicts.problems.reason:
            cells.insert(6, "" if other is None else _range(other.problems_low, other.problems_high, sign=True))
        rows.append(" & ".join(cells) + r" \\")
    problems, column = ("", "") if verdicts.problems.reason else (r" & other problems too", "r")
    head = rf"condition & seeds & {latex(found.metric)} & 95\% & difference & 95\%, joint{problems} & $p$ & verdict \\"
    begin = rf"\begin{{tabular}}{{lrrrrr{column}rl}}"
    return "\n".join([
        f"% {verdicts.headline}".replace("\n", " "), begin, r"\toprule", head, r"\midrule",
        *rows, r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def _latex_difference(c: Comparison) -> list[str]:
    p = f"${pvalue(c.p_holm)}$" if math.isfinite(c.p_holm) else "--"
    return [f"${signed(c.difference)}$".replace("−", "-"), _range(c.low, c.high, sign=True), p, c.verdict]


def _range(low: float, high: float, *, sign: bool = False) -> str:
    form = signed if sign else number
    return rf"$[{form(low)}, {form(high)}]$".replace("−", "-") if math.isfinite(low) and math.isfinite(high) else "--"


def latex(words: str) -> str:
    """Escape text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda m: special.get(m[0], f"\\{m[0]}"), words)


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-300:  # the end of an interval that is cut at 0
        return "0"
    return f"{'+' if value > 0 else '−'}{number(abs(value))}"


def pvalue(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def short(value: Any) -> str:
    words = str(value)
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
