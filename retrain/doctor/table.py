"""Every check, one line each: what is looked at without a config, with one, and with the model loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.doctor import config, data, machine, packages, probe, services
from retrain.doctor.finding import Check, Finding, run_check
from retrain.doctor.subject import Shared, Subject
from retrain.events import Phase, ignore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.config import Composed
    from retrain.doctor.machine import Machine
    from retrain.events import Emit

MACHINE: dict[str, Sequence[Check[Machine]]] = {
    "machine": (
        Check("python", machine.python),
        Check("packages", packages.core),
        Check("extras", packages.extras),
        Check("torch", machine.torch),
        Check("GPUs", machine.gpus),
        Check("cores", machine.cores),
        Check("memory", machine.memory),
        Check("git", machine.git),
        Check("terminal", machine.terminal),
    ),
    "services": (
        Check("hub", services.hub),
        Check("hub cache", services.cache),
        Check("hub token", services.token),
        Check("clock", machine.clock),
    ),
}
WITHOUT_CONFIG: dict[str, Sequence[Check[Machine]]] = {
    "runs": (
        Check("outputs", machine.outputs),
        Check("tracker", services.default_tracker),
    ),
}
CONFIG: dict[str, Sequence[Check[Subject]]] = {
    "config": (
        Check("packages", config.packages),
        Check("cautions", config.second_look),
        Check("directory", config.directory),
        Check("adapter path", config.adapter_path),
        Check("resume", config.resume),
        Check("tracker", config.tracker),
        Check("device", config.device),
        Check("model", config.model),
        Check("adapter", config.adapter),
        Check("tokenizer", config.tokenizer),
        Check("algorithm", config.algorithm),
        Check("memory", config.memory),
    ),
    "data": (
        Check("problems", data.problems),
        Check("repetitions", data.repetitions),
        Check("reward", data.reward),
        Check("eval reward", data.eval_reward),
        Check("lengths", data.lengths),
    ),
}
PROBE: dict[str, Sequence[Check[Subject]]] = {
    "probe": (
        Check("sampling", probe.loads),
        Check("informative", probe.informative),
        Check("correct", probe.correct),
        Check("truncated", probe.truncated),
        Check("speed", probe.speed),
        Check("ratio", probe.ratio),
        Check("duration", probe.projected),
    ),
}


def examine(
    machine: Machine,
    configs: Mapping[str, Composed],
    *,
    with_config: bool,
    probe: bool = False,
    runs: int = 1,
    emit: Emit = ignore,
) -> Iterator[Finding]:
    """Run all checks; yield what each finds as soon as it has.

    configs:     by condition; "" for a run's. Of a later condition only what differs from the first is yielded
    with_config: one was given, be it that it cannot be composed
    probe:       load the model too
    runs:        how many the campaign has
    emit:        told what is under way
    """
    machine.needs_hub = not with_config or any(services.needs_hub(composed.config) for composed in configs.values())
    for family, checks in (MACHINE | ({} if with_config else WITHOUT_CONFIG)).items():
        for check in checks:
            emit(Phase(name=check.name))
            yield from run_check(check, machine, family=family)
    shared, first = Shared(), set[tuple[str, ...]]()
    with shared.opened:
        for number, (label, composed) in enumerate(configs.items()):
            subject = Subject(composed, machine, shared, runs=runs, emit=emit)
            for finding in _of_config(subject, label, probe=probe):
                key = (finding.family, finding.name, finding.verdict, finding.found, finding.fix)
                if not number:
                    first.add(key)
                if not number or key not in first:
                    yield finding


def _of_config(subject: Subject, label: str, *, probe: bool) -> Iterator[Finding]:
    for family, checks in (CONFIG | (PROBE if probe else {})).items():
        for check in checks:
            subject.emit(Phase(name=check.name, detail=label))
            yield from run_check(check, subject, family=family, condition=label)
