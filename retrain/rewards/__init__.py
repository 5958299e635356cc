"""Rewards: what a completion is worth, against the reference answer of its task."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from retrain import registry
from retrain.errors import ConfigError, Problem
from retrain.rewards.custom import Function, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from retrain.config.schema import RunConfig
    from retrain.types import Reward


def build(config: RunConfig, default: str, places: Sequence[Path]) -> Reward:
    """Return the reward that `config.reward` names; `default` is the data source's own.

    What the name stands for is a class or an object with a method `score`, or a plain function. The constructor of a
    class may take the `[reward]` section, and the run's `seed` by name.

    Raises:
        ConfigError: there is no such reward, or it cannot be called as one.
    """
    name = config.reward.type or default
    found = registry.resolve("reward", name, places=places)
    if inspect.isclass(found):
        found = _constructed(name, found, config)
    if not registry.is_import_path(name) and name in registry.BUILTIN["reward"]:
        return found
    if hasattr(found, "score"):
        return Plugin(name, found)
    if callable(found):
        return Function(name, found)
    message = f'reward.type = "{name}" is neither a function nor has it a method score'
    raise ConfigError(Problem(message=message, hint="def score(response, reference): …", key="reward.type"))


def _constructed(name: str, found: type, config: RunConfig) -> Any:
    parameters = list(inspect.signature(found).parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = {"seed": config.training.seed} if any(p.name == "seed" for p in parameters) else {}
    sections = [config.reward] if any(p.name != "seed" for p in needed) else []
    try:
        return found(*sections, **named)
    except ConfigError:
        raise
    except Exception as error:
        if name in registry.BUILTIN["reward"]:
            raise  # a defect of ours keeps its traceback
        message = f'reward "{name}" cannot be made: {type(error).__name__}: {error}'
        raise ConfigError(
            Problem(message=message, hint="it may take the [reward] section", key="reward.type")
        ) from error
