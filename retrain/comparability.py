"""What a reader of a comparison has to be careful with: whatever else tells the conditions apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrain import seeds
from retrain.config.schema import KEYS
from retrain.errors import nearest
from retrain.study import UNFINISHED, differing, measured

UNEVEN = 4.0  # ratio of standard deviations; four seeds of equal conditions reach it once in twenty times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrain.study import Run, Study


def cautions(study: Study) -> Iterator[str]:
    """Yield what a reader of the comparison has to know."""
    known = measured(study.runs)
    if study.metric not in known:
        near = nearest(study.metric, known)
        yield f"no run has {study.metric}" + (f"; did you mean {near}?" if near else "; --metric names another one")
    for label in study.labels:
        if inside := [key for key in differing(study.of(label)) if key not in study.compared]:
            yield f"runs of {label} differ in {', '.join(inside)}"
        given = [run.seed for run in study.of(label) if run.state not in UNFINISHED]
        if len(set(given)) < len(given):
            yield f"{label} has several runs of one seed: their mean is one value"
    yield from _beyond(study)
    yield from _uneven(study)
    for name, values in _made_with(study.runs).items():
        if len(values) > 1 and not (name == "data" and any(key.startswith("data") for key in study.compared)):
            yield f"the runs were made with different {name}: {', '.join(sorted(values))}"


def _beyond(study: Study) -> Iterator[str]:
    """Yield a warning when conditions differ in more than what was to be compared."""
    groups = {key for key in study.compared if "." not in key}  # algorithm=maxrl sets whatever its file says
    if study.manifest and groups:
        return
    firsts = [run for label in study.labels if (run := next((one for one in study.of(label) if one.config), None))]
    keys = [key for key in differing(firsts) if not (study.manifest and _is_idle(key, firsts))]
    beyond = [key for key in keys if not any(key == c or key.startswith(f"{c}.") for c in study.compared)]
    if beyond:
        yield f"the conditions also differ in {', '.join(beyond)}: a difference may be due to that"


def _is_idle(key: str, runs: Sequence[Run]) -> bool:
    """Tell whether conditions differ in what they share because some have its default, as it is of no use to them.

    So `config.compose_campaign` leaves it: one value, or the default.
    """
    default = KEYS[key].default if key in KEYS else None
    return len({str(value) for run in runs if (value := run.config.get(key, default)) != default}) == 1


def _uneven(study: Study) -> Iterator[str]:
    """Yield a warning where a condition varies much more or less over seeds than the baseline.

    A t-test bears that when values are normal, and errs often when they are skewed.
    """
    spreads = {label: seeds.spread(list(study.values(label, study.final).values()))[0] for label in study.labels}
    base = spreads.pop(study.baseline)
    for label, own in spreads.items():
        if min(own, base) > 0 and max(own, base) / min(own, base) >= UNEVEN:
            more, less = (label, study.baseline) if own > base else (study.baseline, label)
            times = max(own, base) / min(own, base)
            yield (
                f"{more} varies {times:.1f} times as much over seeds as {less}: if a few seeds of it are far off, the "
                "verdict errs more often than it says (retrain man compare)"
            )


def _made_with(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Return the versions, commits and data that runs were made with."""
    found: dict[str, set[str]] = {}
    for run in runs:
        versions = run.record.get("versions")
        for package, version in (versions if isinstance(versions, Mapping) else {}).items():
            found.setdefault(package, set()).add(str(version))
        if isinstance(git := run.record.get("git"), Mapping):
            commit = str(git.get("commit"))[:12] + (" (dirty)" if git.get("dirty") else "")
            found.setdefault("commits", set()).add(commit)
        data = run.record.get("dataset")
        if isinstance(data, Mapping) and data.get("digest"):
            found.setdefault("data", set()).add(str(data["digest"]))
    return found
