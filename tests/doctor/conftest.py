"""A machine whose torch has been asked already: asking starts a process, which costs seconds."""

import pytest

from retrain.doctor import machine


@pytest.fixture
def torch_asked(monkeypatch):
    """Let every machine have a torch without a GPU."""
    monkeypatch.setattr(machine, "ask_torch", lambda: machine.Torch(version="2.9", threads=1))
