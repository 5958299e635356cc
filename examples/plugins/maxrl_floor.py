"""MaxRL that trusts a group's mean only down to a floor.

    A = (r − m) / max(m, floor),    m = mean(group)

    [algorithm]
    advantage_mode = "maxrl_floor:MaxRlFloor"
    advantage_params = { floor = 0.1 }

`maxrl` divides by m, so one right answer among 512 weighs 511 times as much as a wrong one and the step follows it
alone. Here no advantage is larger than (r − m) / floor. A group whose mean is above the floor gets what `maxrl` gives,
but for its 1e-6; a group below it gets grpo's advantage, divided by the floor.
Domain: floor > 0, rewards of at least 0. A negative mean is below any floor.
Edges: an unscorable reward (NaN) counts for nobody and gets 0; a group of equal rewards gets 0 throughout.
Source: arXiv 2602.02710 for the division by the mean; the floor is ours.
"""

from dataclasses import dataclass

from torch import Tensor

from retrain.advantages.baselines import centred, group_mean


@dataclass
class MaxRlFloor:
    floor: float = 0.1

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"floor = {self.floor:g}, more than 0 is needed; maxrl has none")

    def __call__(self, rewards: Tensor, group_ids: Tensor) -> Tensor:
        return centred(rewards, group_ids) / group_mean(rewards, group_ids).clamp(min=self.floor)
