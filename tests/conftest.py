"""What holds for every test."""

import pytest
from hypothesis import settings

settings.register_profile("retrain", deadline=None)  # a busy machine is no broken law
settings.load_profile("retrain")


@pytest.fixture(autouse=True)
def no_terminal_of_whoever_runs_the_tests(monkeypatch):
    """Lines are as long as they like, in no colour: xdist gives its workers the COLUMNS of the terminal."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
