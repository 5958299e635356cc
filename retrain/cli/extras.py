"""Optional installs: say the exact command before anything half-works."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from retrain import parts, registry
from retrain.backends.options import LOCAL
from retrain.capabilities import Capabilities
from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from retrain.config import Composed

NEEDS: dict[str, tuple[str, ...]] = {
    "local": tuple(LOCAL.needed),
    "tracking": ("mlflow", "pyarrow", "numpy", "scipy", "jinja2"),
}
"""Extra of pyproject.toml → the modules that tell whether it is installed."""


def missing(extra: str, what: str) -> Problem | None:
    """Describe what is not installed of an extra, importing none of it. None: all of it is there."""
    absent = [module for module in NEEDS[extra] if find_spec(module) is None]
    if not absent:
        return None
    return Problem(
        message=f"{what} needs {', '.join(absent)}, not installed here", hint=f'pip install "retrain[{extra}]"'
    )


def require(extra: str, what: str) -> None:
    """Refuse to go on without an extra.

    Raises:
        ConfigError: with the command that installs it.
    """
    problem = missing(extra, what)
    if problem is not None:
        raise ConfigError(problem)


def backend_of(composed: Composed) -> tuple[Capabilities, list[Problem]]:
    """Return what a config's backend says of itself, and what keeps it from being used here.

    A backend that cannot be imported says nothing.
    """
    config = composed.config
    try:
        offered = registry.capabilities(config.backend.backend, places=composed.places)
    except ConfigError as error:
        return Capabilities(parts=frozenset()), error.problems
    return offered, [*parts.not_installed(config, offered), *parts.wrong_options(config, offered)]
