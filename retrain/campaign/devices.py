"""What deserves a second look about the devices that the runs of a campaign name."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from retrain.campaign.local import visible_gpus
from retrain.campaign.supervisor import named_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrain.campaign.plan import Plan


def cautions(plan: Plan) -> Iterator[str]:
    """Yield what deserves a second look: GPUs that are not there, and those that several runs share.

    Only this machine's are known: nothing is said of runs that a cluster places.
    """
    named = Counter[int]()
    configs = [cell.composed.config for cell in plan.cells] or [plan.composed.config] * plan.number
    for config in configs:
        if (gpu := named_gpu(config.backend.devices)) is not None:
            named[gpu] += 1
    if not named or plan.campaign.launcher != "local":
        return
    gpus, at_once = len(visible_gpus()), plan.campaign.max_workers
    for gpu, runs in sorted(named.items()):
        text = f'{runs} of {plan.number} runs have backend.devices = "gpu:{gpu}"'
        if gpu >= gpus:
            yield f"{text}, and this machine shows {gpus or 'no'} GPU{'s' * (gpus != 1)}: they will fail"
        elif min(runs, at_once) > 1:
            own = " Without it each run gets a GPU of its own" if gpus > 1 else ""
            yield f"{text}: up to {min(runs, at_once)} at once share its memory.{own}"
