"""What a reader of a comparison has to be careful with: whatever else tells the conditions apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrain.errors import nearest
from retrain.study import UNFINISHED, differing, measured

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
        seeds = [run.seed for run in study.of(label) if run.state not in UNFINISHED]
        if len(set(seeds)) < len(seeds):
            yield f"{label} has several runs of one seed: their mean is one value"
    yield from _beyond(study)
    for name, values in _made_with(study.runs).items():
        if len(values) > 1 and not (name == "data" and any(key.startswith("data") for key in study.compared)):
            yield f"the runs were made with different {name}: {', '.join(sorted(values))}"


def _beyond(study: Study) -> Iterator[str]:
    """Yield a warning when conditions differ in more than what was to be compared."""
    groups = {key for key in study.compared if "." not in key}  # algorithm=maxrl sets whatever its file says
    if study.manifest and groups:
        return
    firsts = [next((run for run in study.of(label) if run.config), None) for label in study.labels]
    keys = differing(run for run in firsts if run is not None)
    beyond = [key for key in keys if not any(key == c or key.startswith(f"{c}.") for c in study.compared)]
    if beyond:
        yield f"the conditions also differ in {', '.join(beyond)}: a difference may be due to that"


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
