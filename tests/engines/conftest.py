"""Folders of three architectures, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.models import MAKERS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the machines that run tests have few cores, and these models are tiny
