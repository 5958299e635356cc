"""A model of the hub that is not here yet, against a real HTTP server: it is measured, not downloaded."""

import json
import os
import subprocess
import sys

from tests.hub_server import serving
from tests.models import make_qwen2

CONFIG = """
[model]
model = "team/small"
[data]
source = "arithmetic"
[training]
max_tokens = 8
batch_size = 2
group_size = 2
[logging]
tracking_uri = "none"
"""


def doctor(folder, hub, *arguments):
    """In a process of its own: the address and the cache are read when a library is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "retrain.cli.main", "doctor", "c.toml", "--json", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=250
    )
    found = json.loads(done.stdout)
    assert done.returncode == (found["verdict"] == "fail"), done.stderr
    return {(check["family"], check["name"]): check for check in found["checks"]}


def test_a_model_that_is_not_here_is_measured_and_not_downloaded(tmp_path):
    model = make_qwen2(tmp_path / "hub" / "models" / "team" / "small")
    (tmp_path / "c.toml").write_text(CONFIG)
    with serving(tmp_path / "hub") as (hub, downloads):
        found = doctor(tmp_path, hub, "--probe")
    assert not [name for name in downloads if name.endswith(".safetensors")]
    assert found["services", "hub"]["verdict"] == "ok"
    size = (model / "model.safetensors").stat().st_size / 2**20
    told = found["config", "model"]["found"]
    assert (found["config", "model"]["verdict"], "to be downloaded" in told) == ("ok", True)
    assert size <= float(told.partition(": ")[2].partition(" MB")[0]) <= size + 1
    assert found["config", "memory"]["verdict"] == "ok"  # from config.json alone
    sampling = found["probe", "sampling"]
    assert (sampling["verdict"], "first: retrain fetch c.toml" in sampling["found"]) == ("skipped", True)


def test_a_hub_that_is_out_of_reach_fails_a_model_that_is_not_cached_once(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    found = doctor(tmp_path, "http://127.0.0.1:9")
    failed = [name for (_, name), check in found.items() if check["verdict"] == "fail"]
    assert failed == ["model"]
    assert "the Hugging Face hub is out of reach" in found["config", "model"]["found"]
    assert found["config", "tokenizer"]["found"] == "the model was not found"
    assert found["services", "hub"]["verdict"] == "warn"
