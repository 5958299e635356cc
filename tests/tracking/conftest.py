"""One sqlite store for the tests that need no fresh one: making one costs seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.tracking.training import Database, Training

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One sqlite store for all tests that do not need a fresh one."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def database(store: str) -> Database:
    return Database(store)


@pytest.fixture
def train(tmp_path: Path, store: str) -> Any:
    """train("name", experiment="x"): a run directory that tracks to the shared store."""
    return lambda name="run", uri=store, **logging: Training(tmp_path / name, uri, **logging)
