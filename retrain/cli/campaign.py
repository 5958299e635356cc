"""`retrain CAMPAIGN.toml`, `CONFIG.toml --multirun …`, `retrain resume CAMPAIGN`: many runs, and their verdict."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain.cli import ask, output
from retrain.cli.flags import take, take_own
from retrain.cli.progress import shown
from retrain.errors import ConfigError, RetrainError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from retrain.campaign.manifest import Manifest
    from retrain.campaign.plan import Plan

MANY_RUNS = 8  # more are asked about before they start, on a terminal


def is_one(path: Path, arguments: Sequence[str]) -> bool:
    """Tell whether a command line is of many runs: the TOML, or one that it extends, has `[campaign]`, or it sweeps."""
    from retrain.campaign import sweep
    from retrain.config.campaign import is_in

    return sweep.is_multirun(arguments)[0] or is_in(path)


def main(path: Path, arguments: Sequence[str]) -> int:
    """Run a campaign, or go on with one.

    Raises:
        ConfigError: the input is wrong; nothing was started.
        Incomplete: some runs are not done. Interrupted: it was asked to stop.
    """
    options, rest = _take(arguments)
    plan = planned(path, rest)
    from retrain.campaign import devices
    from retrain.cli import search_explained
    from retrain.cli.campaign_plan import backends, plan_sentence

    directory = _directory(options, plan)
    offered, problems = backends(plan)
    if problems:
        raise ConfigError(problems)
    output.say(search_explained.sentence(plan, plan.search, offered) if plan.search else plan_sentence(plan, offered))
    for caution in devices.cautions(plan):
        output.say(f"warning: {caution}")
    if directory is None and not {"--yes", "-y"} & options.keys() and not _agreed(plan):
        output.say("nothing was started")
        return 0
    from retrain.campaign import conduct

    if directory is not None:
        anew = "--retry-failed" in options
        left = "--extend" in options and not anew
        return watched(lambda show: conduct.go_on(directory, show, plan=plan, retry_failed=anew, leave_failed=left))
    return watched(lambda show: conduct.start(plan, show))


def resume(directory: Path, others: Sequence[str], *, retry_failed: bool) -> int:
    """Do what is missing of a campaign; `others` are arguments that only a run would take.

    Raises:
        ConfigError: there is such an argument, or nothing is missing.
        Incomplete, Interrupted: as for `main`.
    """
    if others:
        raise ConfigError(
            f"a campaign goes on with what it was started with, and takes no {others[0].partition('=')[0]}",
            f"to change or add something: retrain CONFIG.toml … --extend {shown(directory)}, and --retry-failed "
            "where failed runs shall begin anew",
        )
    from retrain.campaign import conduct

    return watched(lambda show: conduct.go_on(directory, show, retry_failed=retry_failed))


def planned(path: Path, arguments: Sequence[str]) -> Plan:
    """Compose all runs of a command line.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    from retrain.campaign.launchers import check_launcher

    made = _planned(path, arguments)
    problem = check_launcher(made.campaign.launcher, made.campaign.launcher_options)
    if problem is not None:
        raise ConfigError(replace(problem, key="campaign.launcher"))
    return made


def _planned(path: Path, arguments: Sequence[str]) -> Plan:
    from retrain.campaign import plan, search, search_plan, sweep
    from retrain.campaign.labels import labels_of

    swept, rest = sweep.is_multirun(arguments)
    hydra, rest = sweep.take_hydra(rest)
    changes = {"launcher": hydra.launcher} if hydra.launcher else {}
    changes |= {"launcher_options": hydra.launcher_options} if hydra.launcher_options else {}
    sweeper = _sweeper(path, hydra.sweeper, rest)
    if sweeper == search.NAME:
        changes |= {"sweeper_options": hydra.sweeper_options} if hydra.sweeper_options else {}
        return search_plan.make(path, rest, changes=changes, sweeps=swept)
    if hydra.sweeper_options:
        named = ", ".join(f"hydra.sweeper.{name}" for name in hydra.sweeper_options)
        raise ConfigError(f"{named}: the sweeper basic has no options", "hydra/sweeper=optuna searches")
    if not swept:
        return plan.make(path, rest, changes=changes)
    wanted, settings, rest = plan.split(rest)
    jobs = sweep.expand(rest, path)
    if len(jobs) == 1:
        raise ConfigError(
            "--multirun, and nothing is swept", "name values: training.seed=1,2,3 algorithm=grpo,maxrl; or leave it out"
        )
    own = [f"condition={label}" for label in wanted]
    own += [f"campaign.{name}={value}" for name, value in settings.items()]
    return plan.make_multirun(path, jobs, labels_of(jobs), own, changes=changes)


def _sweeper(path: Path, chosen: str, arguments: Sequence[str]) -> str:
    """Return who says what is run: the command line, else the TOML.

    Raises:
        ConfigError: there is no such sweeper.
    """
    from retrain.campaign import plan
    from retrain.config.campaign import declared
    from retrain.config.schema import CAMPAIGN_KEYS

    known = CAMPAIGN_KEYS["sweeper"]
    found = chosen or plan.split(arguments)[1].get("sweeper") or declared(path, "sweeper") or known.default
    if chosen and found not in known.choices:
        raise ConfigError(
            replace(unknown_name(kind="sweeper", name=found, known=known.choices), key="campaign.sweeper")
        )
    return found


def _take(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take what is of the campaign itself off the arguments; ``--resume`` too, for it names no run of its own."""
    options, rest = take_own("train", arguments)
    resumed, others = take({"--resume": "run"}, rest, "train")
    return options | resumed, others


def _directory(options: dict[str, str], plan: Plan) -> Path | None:
    """Return the campaign to go on with; None: a new one."""
    from retrain import references
    from retrain.campaign.manifest import is_campaign, newest_unfinished

    given = options.get("--extend") or options.get("--resume") or plan.composed.config.resume.path
    if not given:
        return None
    if given != "auto":
        found = references.find_either(given)
        if not is_campaign(found):
            raise ConfigError(f"{given} is a run, not a campaign", f"to go on with it: retrain resume {given}")
        return found
    found = newest_unfinished(plan.name, plan.source, plan.composed.config.logging.log_dir)
    output.say(f"going on with {found}" if found else f"no unfinished campaign {plan.name}: a fresh start")
    return found


def _agreed(plan: Plan) -> bool:
    """Ask before many runs start, where somebody can answer."""
    if plan.number <= MANY_RUNS or not ask.can_ask():
        return True
    with contextlib.suppress(ask.NoAnswer):
        return ask.agreed(f"start {plan.number} runs?")
    return False


def watched(conduct: Callable[[Callable[[Path, Manifest], None]], Path]) -> int:
    """Conduct a campaign: show it, sum it up, and print its directory as the one line on stdout."""
    from retrain.cli.campaign_view import CampaignWatch

    places: list[Path] = []
    with CampaignWatch() as watch:

        def show(directory: Path, manifest: Manifest) -> None:
            places[:] = [directory]
            watch.changed(directory, manifest)

        try:
            with contextlib.redirect_stdout(sys.stderr):
                conduct(show)
        except (RetrainError, KeyboardInterrupt):
            watch.close()
            _tell(places)
            raise
    _tell(places)
    return 0


def _tell(places: Sequence[Path]) -> None:
    if places:
        if not output.quiet():
            from retrain.cli.campaign_view import ending

            output.say(ending(places[0]))
        with contextlib.suppress(BrokenPipeError):  # the exit code matters more than a reader that is gone
            print(shown(places[0]), flush=True)
