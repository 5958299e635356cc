"""Optional installs: say the exact command before anything half-works."""

from __future__ import annotations

from importlib.util import find_spec

from retrain import registry
from retrain.errors import ConfigError, Problem

_LOCAL = registry.BUILTIN["backend"]["local"].can
assert _LOCAL is not None, "what is built in says what it can"

NEEDS: dict[str, tuple[str, ...]] = {
    "local": _LOCAL.modules,
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
