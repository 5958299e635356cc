"""`retrain fetch`, against a real HTTP server that speaks as much of the hub's API as downloads need."""

import json
import os
import subprocess
import sys

import pytest

from retrain.cli.main import main
from tests.hub_server import serving
from tests.models import make_qwen2
from tests.test_adapter import make_adapter

CONFIG = """
[model]
model = "team/small"
[data]
source = "hf"
name = "team/sums"
[training]
max_tokens = 8
max_steps = 1
batch_size = 2
group_size = 2
[logging]
tracking_uri = "none"
"""
WANTED = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """A model with what training does not need beside it, an adapter, and a data set."""
    root = tmp_path_factory.mktemp("hub")
    model = make_qwen2(root / "models" / "team" / "small")
    (model / "original").mkdir()
    for extra in ("original/params.json", "pytorch_model.bin", "model.fp16.safetensors", "README.md"):
        (model / extra).write_bytes(b"not needed")
    make_adapter(root / "models" / "team" / "adapter", model)
    (root / "models" / "team" / "gated").mkdir()
    data = root / "datasets" / "team" / "sums"
    data.mkdir(parents=True)
    for split, number in (("train", 40), ("test", 4)):
        rows = [json.dumps({"question": f"{i}+{i}=", "answer": str(2 * i)}) for i in range(number)]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    return root


@pytest.fixture
def retrain(tmp_path):
    """Run a command line in a process of its own, with an empty cache: both are read when a library is imported."""
    (tmp_path / "c.toml").write_text(CONFIG)

    def go(*arguments, hub, offline=False):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        command = [sys.executable, "-m", "retrain.cli.main", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return go


def test_everything_is_downloaded_once_and_then_a_run_needs_no_network(repositories, retrain, tmp_path):
    adapter = ("--model-adapter", "team/adapter")
    with serving(repositories) as (hub, downloads):
        first = retrain("fetch", "c.toml", *adapter, hub=hub)
        assert first.returncode == 0, first.stderr
        lines = [line.split() for line in first.stdout.splitlines()]
        assert [line[0] for line in lines] == ["model", "adapter", "data"]
        assert all("downloaded" in line for line in lines)
        names = {name.rpartition("/")[2] for name in downloads if name.startswith("team/small/")}
        assert WANTED <= names <= WANTED | {"chat_template.jinja", "special_tokens_map.json"}
        downloads.clear()
        again = retrain("fetch", "c.toml", "--json", *adapter, hub=hub)
        items = json.loads(again.stdout)["items"]
        assert [(item["kind"], item["state"], item["bytes"]) for item in items] == [
            ("model", "already there", 0),
            ("adapter", "already there", 0),
            ("data", "already there", 0),
        ]
        assert all(str(tmp_path / "home") in item["place"] for item in items)
        assert not downloads
    nowhere = "http://127.0.0.1:9"
    without = json.loads(retrain("fetch", "c.toml", "--json", *adapter, hub=nowhere).stdout)["items"]
    assert [item["note"] for item in without[:2]] == ["the hub was not asked"] * 2
    run = retrain("c.toml", *adapter, hub=nowhere, offline=True)
    assert run.returncode == 0, run.stderr


def test_the_bytes_are_those_of_the_files(repositories, retrain):
    with serving(repositories) as (hub, downloads):
        (item, _) = json.loads(retrain("fetch", "c.toml", "--json", hub=hub).stdout)["items"]
        files = [repositories / "models" / name for name in downloads if name.startswith("team/small/")]
    assert item["bytes"] == sum(file.stat().st_size for file in files)


def test_all_that_could_not_be_had_is_listed_at_the_end(repositories, retrain):
    broken = ("--model", "team/gated", "--model-adapter", "team/nothing", "--data-name", "team/none")
    with serving(repositories, gated=frozenset({"team/gated"})) as (hub, _):
        done = retrain("fetch", "c.toml", *broken, hub=hub)
        assert done.returncode == 1
        for said in ("gated model", "HF_TOKEN", '"team/nothing" does not exist on the hub', "team/none, split train"):
            assert said in done.stderr
        as_json = retrain("fetch", "c.toml", "--json", *broken, hub=hub)
        assert (as_json.returncode, as_json.stdout) == (1, "")
        assert len(json.loads(as_json.stderr)["problems"]) == 3


def test_an_unreachable_hub_and_an_empty_cache_are_said_for_each(retrain):
    done = retrain("fetch", "c.toml", hub="http://127.0.0.1:9")
    assert done.returncode == 1
    assert 'model.model = "team/small" cannot be downloaded: the Hugging Face hub is out of reach' in done.stderr
    assert "the hub cannot be reached" in done.stderr


def test_a_cache_that_lost_a_file_is_not_taken_for_whole(repositories, retrain, tmp_path):
    with serving(repositories) as (hub, _):
        assert retrain("fetch", "c.toml", hub=hub).returncode == 0
    (weights,) = (tmp_path / "home").glob("hub/models--team--small/snapshots/*/model.safetensors")
    weights.unlink()
    done = retrain("fetch", "c.toml", hub="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "lacks the weights" in done.stderr


def test_what_is_in_the_package_needs_no_fetching(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text('[model]\nmodel = "builtin:tiny"\n[data]\nsource = "arithmetic"\n')
    assert main(["fetch", "c.toml"]) == 0
    assert capsys.readouterr().out == "model    builtin:tiny  nothing to fetch\ndata     arithmetic  nothing to fetch\n"
