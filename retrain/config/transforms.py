"""Which transforms a config asks for, in order, with their options. Imports no tensor library.

Three ways to say it, from the shortest: `algorithm.transform_mode` names a list (`registry.MODES`) or a plugin;
`algorithm.transforms` lists tables, each with a name and the options that differ from the transform's own section;
`algorithm.adv_clip_max` puts a clip at the end of either.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from retrain import registry
from retrain.config import schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from retrain.config.schema import RunConfig


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One transform of a pipeline: its name, and the options it will be made with.

    options: the option dataclass of a built-in transform; of a plugin, the table as it was written.
    given: what the entry itself says, without the defaults of sections.
    """

    name: str
    options: Any
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> registry.Entry | None:
        """The registry's entry; None for a plugin."""
        return registry.names("transform").get(self.name)

    @property
    def is_built_in(self) -> bool:
        return self.name in registry.BUILTIN["transform"]

    @property
    def formula(self) -> str:
        """What it computes, in a line of maths."""
        if not self.is_built_in or self.entry is None:
            options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            return f"A_t, H_t = {self.name}({options})"
        return self.entry.formula.format(**asdict(self.options))


def sections(config: RunConfig) -> dict[str, Any]:
    """The options that a built-in transform has before its own entry says otherwise."""
    algorithm = config.algorithm
    return {
        "gtpo": config.gtpo,
        "hicra": config.hicra,
        "sepa": config.sepa,
        "entropy_mask": schema.EntropyMask(rho=algorithm.entropy_mask_rho),
        "whiten": schema.Whiten(),
        "clip": schema.Clip(max=algorithm.adv_clip_max),
    }


def entries(config: RunConfig) -> list[dict[str, Any]]:
    """The pipeline as tables: of `transforms` if it is not empty, else of `transform_mode`."""
    algorithm = config.algorithm
    if algorithm.transforms:
        listed = [dict(entry) for entry in algorithm.transforms]
    elif algorithm.transform_mode in registry.MODES:
        listed = [{"name": name} for name in registry.MODES[algorithm.transform_mode]]
    else:
        listed = [{"name": algorithm.transform_mode, **algorithm.transform_params}]
    return [*listed, {"name": "clip"}] if algorithm.adv_clip_max else listed


def planned(config: RunConfig) -> list[Planned]:
    """The transforms of a config whose entries are sound (`config.check`), in order."""
    own = sections(config)
    made = []
    for entry in entries(config):
        name, given = entry["name"], {key: value for key, value in entry.items() if key != "name"}
        options = replace(own[name], **given) if name in own else given
        made.append(Planned(name=name, options=options, given=given))
    return made


def asks_for(transforms: Sequence[Planned], what: str) -> bool:
    """Whether a transform needs something: "planning_mask" or "uncertainty". A plugin may read the uncertainty."""
    return any(
        what in transform.entry.requires if transform.is_built_in and transform.entry else what == "uncertainty"
        for transform in transforms
    )
