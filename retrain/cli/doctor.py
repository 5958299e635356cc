"""`retrain doctor`: what is really there, and whether a config would run on it."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TextIO

from retrain.cli import output
from retrain.cli.explain import DEFAULT_CONFIG, split_config
from retrain.cli.flags import take_own
from retrain.cli.status_view import DIM, Style
from retrain.doctor import table
from retrain.doctor.finding import Finding, first_to_do, of_problem, worst
from retrain.doctor.machine import Machine
from retrain.errors import ConfigError
from retrain.events import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from retrain.config import Composed
    from retrain.events import Event

COLOURS = {"ok": 32, "warn": 33, "fail": 31, "skipped": DIM}  # ANSI
VERDICT, NAME = 9, 14  # columns of the first two words of a line
NARROW = 64  # columns; below, what was found goes under its name
CLEAR = "\r\033[K"  # the line that says what is looked at


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked at.

    configs: by condition, "" for that of a run; runs: how many a campaign has
    broken:  what is wrong with the TOML, so that there are no configs
    """

    path: Path | None
    configs: Mapping[str, Composed]
    runs: int = 1
    broken: Sequence[Finding] = ()


def main(arguments: Sequence[str]) -> int:
    """Run the checks and show what they find; 1 where one has failed.

    Raises:
        ConfigError: the arguments are wrong, or there is no such file.
    """
    flags, rest = take_own("doctor", arguments)
    wanted, probe = read(rest), "--probe" in flags
    if wanted.path is None and probe:
        raise ConfigError("--probe samples from the model of a config, and none was given", "retrain doctor --help")
    findings = list(watched(wanted, sys.stdout, probe=probe, as_json="--json" in flags))
    if "--json" in flags:
        output.document(document(wanted, findings, probe=probe))
    else:
        print(f"\n{verdict(wanted, findings, Style.of(sys.stdout))}")
    return int(worst(findings).verdict == "fail")


def read(arguments: Sequence[str]) -> Wanted:
    """Compose what the command line names: a run, the conditions of a campaign, or nothing.

    Raises:
        ConfigError: there is no such file, or overrides without a config.
    """
    if not arguments and not DEFAULT_CONFIG.is_file():
        return Wanted(path=None, configs={})
    path, overrides = split_config(arguments)
    try:
        return composed(path, overrides)
    except ConfigError as error:
        if not path.is_file():
            raise
        broken = [
            Finding(**vars(of_problem(problem)), name="config", family="config", condition="", seconds=0.0)
            for problem in error.problems
        ]
        return Wanted(path=path, configs={}, broken=broken)


def composed(path: Path, overrides: Sequence[str]) -> Wanted:
    """Compose a run, or each condition of a campaign once."""
    from retrain.cli import campaign
    from retrain.config import compose

    if not campaign.is_one(path, overrides):
        return Wanted(path=path, configs={"": compose(path, overrides)})
    plan = campaign.planned(path, overrides)
    firsts = {cell.label: cell.composed for cell in reversed(plan.cells)}
    configs = {
        condition.label: firsts[condition.label].replace("logging.log_dir", str(plan.root), "the campaign")
        for condition in plan.conditions
    }
    return Wanted(path=path, configs=configs, runs=len(plan.cells))


def watched(wanted: Wanted, out: TextIO, *, probe: bool, as_json: bool) -> Iterator[Finding]:
    """Run the checks; show each finding as soon as it is there, unless all of them go into one document."""
    style, heading = Style.of(out), ""
    checks = table.examine(
        Machine(), wanted.configs, with_config=wanted.path is not None, probe=probe, runs=wanted.runs, emit=tell
    )
    while True:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print
            finding = next(checks, None)
        if finding is None:
            break
        if not as_json:
            heading = shown(finding, heading, style, out)
        yield finding
    for finding in wanted.broken:
        if not as_json:
            heading = shown(finding, heading, style, out)
        yield finding


def tell(event: Event) -> None:
    """Say what is looked at, on a terminal."""
    if isinstance(event, Phase) and sys.stderr.isatty() and not output.quiet():
        print(f"{CLEAR}{event.name} {event.detail}".rstrip(), end="…", file=sys.stderr, flush=True)


# --- as text --------------------------------------------------------------------------------------------------------


def shown(finding: Finding, heading: str, style: Style, out: TextIO) -> str:
    """Print a finding, under a heading where a new family or condition begins; return the heading.

    With --quiet, only what went wrong.
    """
    if output.quiet() and finding.verdict in ("ok", "skipped"):
        return heading
    if sys.stderr.isatty():
        print(CLEAR, end="", file=sys.stderr, flush=True)
    family = finding.family + (f", condition {finding.condition}" if finding.condition else "")
    if family != heading:
        print(f"{chr(10) if heading else ''}{family}", file=out)
    print("\n".join(lines_of(finding, style)), file=out, flush=True)
    return family


def lines_of(finding: Finding, style: Style) -> list[str]:
    """Return the lines of a finding: verdict, name, what was found, and below it what to do."""
    narrow = style.width is not None and style.width < NARROW
    margin = 4 if narrow else 2 + VERDICT + NAME
    width = max(style.width or sys.maxsize, margin + 20)
    verdict = style.paint(f"{finding.verdict:<{VERDICT}}", COLOURS[finding.verdict])
    head = f"  {verdict}{finding.name:<{NAME}}"
    found, fix = finding.found, finding.fix
    if finding.verdict == "skipped" and fix:
        found, fix = f"{found}; {fix}", ""
    lines = [part for line in found.splitlines() for part in folded(line, width, margin)]
    for place, line in enumerate(fix.splitlines()):
        lines += folded(f"{'     ' if place else 'fix: '}{line}", width, margin)
    if narrow or len(finding.name) >= NAME:
        return [head.rstrip(), *lines]
    return [f"{head}{lines[0].strip()}".rstrip(), *lines[1:]] if lines else [head.rstrip()]


def folded(text: str, width: int, margin: int) -> list[str]:
    """Break a line; commands and paths stay whole where they fit."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * margin,
        subsequent_indent=" " * (margin + 2),
        break_on_hyphens=False,
        break_long_words=False,
    )


def verdict(wanted: Wanted, findings: Sequence[Finding], style: Style) -> str:
    """Return the last lines: would it run, and the one thing to do first."""
    counts = {name: sum(finding.verdict == name for finding in findings) for name in ("fail", "warn")}
    would = f"{wanted.path} would run here" if wanted.path else "runs would work here"
    if counts["fail"]:
        not_so = f"{wanted.path} would not run here" if wanted.path else "no run would work here"
        said = f"{not_so}: {number(counts['fail'], 'check')} failed"
    else:
        said = would + (f", with {number(counts['warn'], 'warning')}" if counts["warn"] else "")
    lines = [style.paint(said, COLOURS[worst(findings).verdict])]
    if todo := first_to_do(findings):
        lines.append(f"first: {todo}")
    return "\n".join(part for line in lines for part in (folded(line, style.width, 0) if style.width else [line]))


def number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


# --- as JSON --------------------------------------------------------------------------------------------------------


def document(wanted: Wanted, findings: Sequence[Finding], *, probe: bool) -> dict[str, object]:
    """Return what was found for a program. Its keys are a public contract."""
    return {
        "config": str(wanted.path) if wanted.path else None,
        "conditions": [label for label in wanted.configs if label],
        "probe": probe,
        "verdict": worst(findings).verdict,
        "fix": first_to_do(findings),
        "checks": [asdict(finding) for finding in findings],
    }
