"""Which MLflow store a run goes to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.errors import ConfigError, Problem

if TYPE_CHECKING:
    from retrain.config.schema import RunConfig

DEFAULT_STORE = "outputs/mlflow.db"
OFF = "none"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc")


def resolve_tracking_uri(config: RunConfig) -> str:
    """Return the run's tracking URI, absolute, or "none".

    `logging.tracking_uri`, else the environment's MLFLOW_TRACKING_URI, else sqlite under outputs/. A relative sqlite
    path counts from the working directory.

    Raises:
        ConfigError: nothing that MLflow can write to.
    """
    uri = config.logging.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{DEFAULT_STORE}"
    origin = "logging.tracking_uri" if config.logging.tracking_uri else "MLFLOW_TRACKING_URI"
    if uri == OFF:
        return OFF
    scheme = re.match(r"([a-z-]+)(\+[a-z0-9_]+)?(:|$)", uri)
    if scheme is None or scheme[1] not in SCHEMES:
        raise ConfigError(_refused(origin, uri, "is not a store that MLflow writes to"))
    if scheme[1] != "sqlite":
        return uri
    path = uri.removeprefix("sqlite:///")
    if path in {uri, "", ":memory:"}:
        raise ConfigError(_refused(origin, uri, "names no database file"))
    return f"sqlite:///{Path(path).expanduser().absolute()}"


def _refused(origin: str, uri: str, reason: str) -> Problem:
    hint = f'"sqlite:///{DEFAULT_STORE}", "http://host:5000", or "{OFF}"'
    return Problem(message=f'{origin} = "{masked(uri)}" {reason}', hint=hint, key="logging.tracking_uri")


def masked(uri: str) -> str:
    """The URI without its password."""
    return re.sub(r"//([^/:@]*):[^/@]*@", r"//\1:***@", uri)


def database_path(uri: str) -> Path | None:
    """The file of a sqlite store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
