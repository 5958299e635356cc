"""Runs in this process, without their followers: tests/tracking tests those."""

import hashlib
from pathlib import Path

import pytest

from retrain import events, run, store, tracking
from retrain.config import compose

TINY = """
[defaults]
model = "tiny"
data = "arithmetic"
[model]
lora_rank = 8
[training]
max_steps = 4
batch_size = 4
group_size = 4
max_tokens = 32
lr = 2e-3
save_every = 1
keep_checkpoints = 9
[eval]
every = 0
[logging]
tracking_uri = "none"
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train a tiny config with some arguments more, in the working directory `tmp_path`; return the run directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    (tmp_path / "tiny.toml").write_text(TINY)

    def go(*arguments, emit=events.ignore):
        return run.run(compose(Path("tiny.toml"), arguments), emit=emit).dir

    return go


def outcome(directory):
    """What two equal runs have in common: metrics but for times, and the bytes of evaluations and of the result."""
    lines = [{k: v for k, v in line.items() if not k.startswith("time")} for line in store.read_metrics(directory)]
    (weights,) = [*directory.glob("adapter/adapter_model.safetensors"), *directory.glob("model/model.safetensors")]
    kept = {file.name: sha256(file) for file in sorted(directory.glob("evaluations/*.parquet"))}
    return lines, sha256(weights), kept


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
