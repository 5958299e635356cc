"""What is said of devices before a campaign starts, and what its runs are given. The GPUs are those of a variable."""

from pathlib import Path

import pytest

from retrain.campaign import conduct, devices, plan
from retrain.campaign.launching import orders_of
from retrain.campaign.local import GPUS
from retrain.campaign.manifest import Manifest
from retrain.cli.main import main

TOML = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[campaign]
seeds = [1, 2]
max_workers = 4
[[campaign.conditions]]
name = "a"
[[campaign.conditions]]
name = "b"
lr = 1e-5
overrides = ["backend.devices=gpu:1"]
"""


@pytest.fixture
def said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def cautions(gpus, *arguments):
        monkeypatch.setenv(GPUS, gpus)
        Path("abl.toml").write_text(TOML)
        return list(devices.cautions(plan.make(Path("abl.toml"), arguments)))

    return cautions


def test_several_runs_on_one_named_gpu_are_allowed_and_said(said, capsys):
    shared = '2 of 4 runs have backend.devices = "gpu:1": up to 2 at once share its memory.'
    assert said("0,1") == [f"{shared} Without it each run gets a GPU of its own"]
    assert said("0,1", "campaign.max_workers=1") == []
    assert said("0,1", "backend.devices=auto") == []
    assert said("0,1", "backend.devices=cpu") == []
    assert main(["explain", "abl.toml"]) == 0
    assert "Look twice:\n  2 of 4 runs have backend.devices" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_said_before_anything_starts(said):
    assert said("0") == ['2 of 4 runs have backend.devices = "gpu:1", and this machine shows 1 GPU: they will fail']
    assert said("") == ['2 of 4 runs have backend.devices = "gpu:1", and this machine shows no GPUs: they will fail']
    assert said("", "campaign.launcher=submitit_slurm") == [], "the cluster's machines are others"


def test_an_order_carries_the_device_that_its_config_names(said, tmp_path):
    said("0,1")
    planned = plan.make(Path("abl.toml"), ["logging.tracking_uri=none", "logging.log_dir=root"])
    root = tmp_path / "root"
    planned = planned.placed(root)
    conduct._write_configs(planned)
    manifest = Manifest(
        name="abl", source="", kind="campaign", campaign=plan.keys_as_dict(planned.campaign), conditions=[],
        runs=[conduct._entry(cell) for cell in planned.cells], tracking_uri="none", experiment="", places=[], cwd=".",
    )  # fmt: skip
    found = [order.devices for order in orders_of(root, manifest, manifest.runs).values()]
    assert found == ["auto", "auto", "gpu:1", "gpu:1"]
