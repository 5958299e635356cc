"""What holds for every test."""

from hypothesis import settings

settings.register_profile("retrain", deadline=None)  # a busy machine is no broken law
settings.load_profile("retrain")
