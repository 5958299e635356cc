"""Plugins in a real run: one of every kind, as `retrain init-plugin` writes it."""

import math

import pyarrow.parquet as pq

from retrain import registry
from retrain.cli.init_plugin import KINDS
from retrain.cli.main import main
from retrain.store import RunRecord, read_metrics

TOML = """
[model]
model = "builtin:tiny"
[data]
source = "my_data:rows"
[reward]
type = "my_reward:score"
[algorithm]
advantage_mode = "my_baseline:MyBaseline"
advantage_params = { share = 0.25 }
uncertainty_kind = "my_signal:uncertainty"
transforms = [{ name = "hicra" }, { name = "my_transform:MyTransform", floor = 0.2 }]
[planning]
detector = "my_detector:find"
[training]
max_steps = 2
batch_size = 4
group_size = 2
max_tokens = 12
[logging]
tracking_uri = "none"
log_dir = "run"
"""


def test_one_plugin_of_every_kind_trains_as_it_was_generated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        assert main(["init-plugin", "--kind", kind, "--name", f"my_{kind}"]) == 0
    (tmp_path / "mine.toml").write_text(TOML)
    assert main(["mine.toml"]) == 0
    record, lines = RunRecord.read(tmp_path / "run"), read_metrics(tmp_path / "run")
    assert (record.state, record.steps_done) == ("done", 2)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    lines = [line for line in lines if line["step"]]  # before the first step there is only the held-out score
    assert all(0.2 < line["my_transform/mean_weight"] < 1 for line in lines)
    assert all(0 < line["reward/brevity"] <= 1 for line in lines)
    rollouts = pq.read_table(tmp_path / "run" / "rollouts" / "step-1.parquet").to_pylist()
    assert {row["task_id"].partition("-")[0] for row in rollouts} == {"square"}
    score = registry.resolve("reward", "my_reward:score", places=[tmp_path])
    for row in rollouts:
        assert row["reward"] == score(row["completion"], row["answer"])["reward"]
