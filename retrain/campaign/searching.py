"""A search while it goes on: the study proposes, runs are made of what it says, and it is told what came of them.

The storage knows first that a trial was asked for, then the manifest. So after kill −9 between the two, the trial is
taken up from the storage; one that had ended is told when the campaign goes on, and none is asked for twice.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import resuming, store, study
from retrain.campaign.labels import trial_label
from retrain.campaign.launching import orders_of
from retrain.campaign.manifest import RunEntry
from retrain.campaign.plan import cell_of, keys_as_dict
from retrain.campaign.search import Search
from retrain.config import compose, toml
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from retrain.campaign.launching import Rolling
    from retrain.campaign.manifest import Manifest
    from retrain.campaign.plan import Plan
    from retrain.campaign.trials import Trial


def check_storage(root: Path, search: Search) -> None:
    """See that a storage outside of the campaign can be used.

    Raises:
        ConfigError: it cannot, or its study is another search.
    """
    from retrain.campaign.trials import Trials

    Trials(root, search, "")


class Searching:
    """Asks for trials and tells their values; what is asked for is in the manifest that it returns."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        """Open the study.

        Raises:
            ConfigError: its storage cannot be used.
        """
        from retrain.campaign.trials import Trials

        search = Search.of(manifest.campaign)
        assert search is not None, "the campaign has conditions"
        self.root, self.search, self.metric = root, search, manifest.campaign["metric"]
        workers = manifest.campaign["max_workers"]
        self.trials = Trials(
            root, search, f"{manifest.created}", side_by_side=workers > len(manifest.campaign["seeds"])
        )
        self.told: set[str] = set()

    def taken_up(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the trials that it does not know yet, because nobody could write it any more."""
        known = {condition["label"] for condition in manifest.conditions}
        for trial in self.trials.asked():
            if trial.label not in known:
                manifest = self._with(manifest, trial)
        return manifest

    def tell(self, manifest: Manifest) -> None:
        """Tell the study what has come of the trials whose runs have all ended."""
        for condition in manifest.conditions:
            label = condition["label"]
            runs = [run for run in manifest.runs if run.label == label]
            if label in self.told or not all(run.state in ("done", "failed") for run in runs):
                continue
            found = [self._objective(run) if run.state == "done" else None for run in runs]
            values = [value for value in found if value is not None]
            self.trials.tell(label, statistics.fmean(values) if len(values) == len(runs) else None)
            self.told.add(label)

    def advance(self, manifest: Manifest, launcher: Rolling, stop: threading.Event) -> Manifest:
        """Tell the study what has ended, and start what it asks for while a worker has nothing to do."""
        self.tell(manifest)
        while launcher.has_room and manifest.unasked and not stop.is_set():
            known = {run.name for run in manifest.runs}
            manifest = self.ask(manifest)
            manifest.write(self.root)
            new = [run for run in manifest.runs if run.name not in known]
            launcher.start(orders_of(self.root, manifest, new))
            self.tell(manifest)  # one whose keys do not go together has failed already
        return manifest

    def ask(self, manifest: Manifest) -> Manifest:
        """Return the manifest with one trial more."""
        return self._with(manifest, self.trials.ask(self._label))

    def _label(self, number: int, values: Mapping[str, Any]) -> str:
        return trial_label(number, self.search.n_trials, self._overrides(values))

    def _overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [dimension.setting(values[dimension.name]) for dimension in self.search.space]

    def _objective(self, run: RunEntry) -> float | None:
        """Return the metric of a run at its planned last step; None: it has none, or no finite one."""
        return study.at_last_step(study.single(self.root / run.directory), self.metric)

    def _with(self, manifest: Manifest, trial: Trial) -> Manifest:
        """Add the runs of a trial, each with its config on the disk; a trial that cannot be one has failed."""
        overrides = self._overrides(trial.values)
        runs = [self._entry(manifest, trial.label, seed, overrides) for seed in manifest.campaign["seeds"]]
        condition = {"label": trial.label, "overrides": overrides, "values": dict(trial.values)}
        return replace(manifest, conditions=[*manifest.conditions, condition], runs=[*manifest.runs, *runs])

    def _entry(self, manifest: Manifest, label: str, seed: int, overrides: list[str]) -> RunEntry:
        arguments = [*overrides, f"training.seed={seed}"]
        name = f"{label}_s{seed}"
        plain = {"name": name, "label": label, "seed": seed, "overrides": arguments, "directory": f"runs/{name}"}
        try:
            composed = compose((self.root / "campaign.toml").resolve(), arguments, cwd=Path(manifest.cwd))
        except ConfigError as error:  # keys that do not go together: both ends of each alone were sound
            return RunEntry(**plain, key="", state="failed", exit_reason=str(error))
        cell = cell_of(label, seed, arguments, composed, self.root).placed(self.root)
        with store.needed(self.root):
            cell.directory.mkdir(parents=True, exist_ok=True)
            store.write_atomically(cell.directory / "config.toml", cell.composed.to_toml())
        return RunEntry(**plain, key=cell.key)


# --- the files that trials are made of --------------------------------------------------------------------------------


def write_base(root: Path, plan: Plan) -> None:
    """Write what all trials have in common, and the group files that they may choose."""
    table = {name: value for name, value in keys_as_dict(plan.campaign).items() if name != "baseline"}
    text = f"{plan.composed.to_toml(resolved=False)}\n{toml.write({'campaign': table})}"
    store.write_atomically(root / "campaign.toml", text)
    for name, content in plan.group_files.items():
        file = root / "conf" / f"{name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomically(file, content)


def extended(root: Path, manifest: Manifest, plan: Plan) -> Manifest:
    """Return a manifest with as many trials as a plan has.

    Raises:
        ConfigError: it would be another search; what differs is named.
    """
    if problems := [*_declared_otherwise(root, manifest, plan)]:
        raise ConfigError(problems)
    return replace(manifest, campaign=keys_as_dict(plan.campaign))


def _declared_otherwise(root: Path, manifest: Manifest, plan: Plan) -> Iterator[Problem]:
    now, before = keys_as_dict(plan.campaign), manifest.campaign
    if not manifest.is_search or plan.search is None:
        yield Problem(message=f"{root} and {plan.name} are not both searches", hint="start a new campaign")
        return
    for name in ("space", "seeds", "metric"):
        if now[name] != before[name]:
            yield _changed(f"campaign.{name}", before[name], now[name])
    options, others = dict(before["sweeper_options"]), dict(now["sweeper_options"])
    for name, value in options.items():
        if name != "n_trials" and value != others[name]:
            yield _changed(f"sweeper_options.{name}", value, others[name])
    if others["n_trials"] < options["n_trials"]:
        yield _changed("n_trials", options["n_trials"], others["n_trials"])
    base = compose((root / "campaign.toml").resolve(), cwd=Path(manifest.cwd))
    keys = [problem.key for problem in resuming.differences(base, plan.composed)]
    if base.config.training.max_steps != plan.composed.config.training.max_steps:
        keys.append("training.max_steps")
    for key in sorted(keys):
        yield Problem(message=f"the search began with another {key}", hint="start a new campaign", key=key)


def _changed(name: str, before: Any, now: Any) -> Problem:
    message = f"{name} was {before!r} and is {now!r}: it would be another search"
    return Problem(message=message, hint="only n_trials may grow; or start a new campaign", key=name)
