"""`retrain backends`: what the choices declare is what is shown, and what configs are held to."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from retrain import registry
from retrain.cli.main import main
from retrain.config import compose
from retrain.config.schema import KEYS
from retrain.errors import ConfigError

TOML = '[model]\nmodel = "builtin:tiny"\n[data]\nsource = "arithmetic"\n'


@pytest.fixture
def declared(monkeypatch):
    """Change what a built-in choice declares."""

    def change(kind, name, **facts):
        place = registry.BUILTIN[kind][name].capabilities.replace(":", ".")
        monkeypatch.setattr(place, replace(registry.declared(kind, name), **facts))

    return change


def listed(capsys, *arguments):
    assert main(["backends", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_choice_declares_is_what_is_listed(capsys):
    found = listed(capsys)
    assert set(found) == {"backends", "engines"}
    for kind in ("backend", "engine"):
        assert [choice["name"] for choice in found[f"{kind}s"]] == list(registry.names(kind))
        for choice in found[f"{kind}s"]:
            can = registry.declared(kind, choice["name"])
            assert (choice["needs"], choice["devices"]) == (can.needed, list(can.devices))
            assert choice["honours"] == list(KEYS)
            assert choice["usable"] is True


def test_the_keys_of_the_json_document_are_these(capsys):
    keys = "kind name origin where target summary usable missing fix needs extra devices here trains gives resume "
    keys += "honours ignores options"
    found = listed(capsys)
    for choice in (*found["backends"], *found["engines"]):
        assert list(choice) == keys.split()


def test_a_choice_whose_modules_are_missing_is_not_usable_and_says_what_installs_them(declared, capsys):
    declared("engine", "pytorch", modules=("torch", "no_such_module"), extra="local")
    (engine,) = listed(capsys)["engines"]
    assert (engine["usable"], engine["missing"]) == (False, ["no_such_module"])
    assert engine["fix"] == 'pip install "retrain[local]"'
    assert main(["backends"]) == 0
    assert 'no: no_such_module not installed; pip install "retrain[local]"' in capsys.readouterr().out


def test_a_choice_for_devices_that_are_not_there_is_not_usable(declared, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    declared("backend", "local", devices=("cuda",))
    (backend,) = listed(capsys)["backends"]
    assert (backend["usable"], backend["here"], backend["missing"]) == (False, [], [])


def test_a_key_that_a_choice_ignores_is_listed_and_refused_in_a_config(declared, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.toml").write_text(TOML.replace("[data]", 'attn_implementation = "eager"\n[data]'))
    compose(tmp_path / "mini.toml")
    declared("engine", "pytorch", ignores=("model.attn_implementation",))
    (engine,) = listed(capsys)["engines"]
    assert engine["ignores"] == ["model.attn_implementation"]
    assert "model.attn_implementation" not in engine["honours"]
    with pytest.raises(ConfigError, match=r'mini.toml:3: .*has no effect: the engine "pytorch" does not use it'):
        compose(tmp_path / "mini.toml")


def test_full_training_is_refused_where_the_backend_trains_adapters_only(declared, tmp_path):
    (tmp_path / "mini.toml").write_text(TOML.replace("[data]", "lora_rank = 0\n[training]\nlr = 1e-6\n[data]"))
    compose(tmp_path / "mini.toml")
    declared("backend", "local", trains=("lora",))
    with pytest.raises(ConfigError, match='backend = "local" trains adapters only'):
        compose(tmp_path / "mini.toml")


def test_an_installed_package_s_backend_is_listed_from_its_metadata_and_not_imported(tmp_path):
    dist = tmp_path / "far_away-1.2.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1.2\nSummary: Elsewhere.\n")
    (dist / "entry_points.txt").write_text("[retrain.backends]\nfar = far:Away\ngone = gone:Away\n")
    (tmp_path / "far.py").write_text("raise SystemExit('imported')\n")
    command = [sys.executable, "-m", "retrain.cli.main", "backends", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    found = {choice["name"]: choice for choice in json.loads(done.stdout)["backends"]}
    far, gone = found["far"], found["gone"]
    assert (far["origin"], far["where"], far["summary"]) == ("entry point", "far-away 1.2", "Elsewhere.")
    assert (far["usable"], far["honours"], far["options"]) == (True, None, None)
    assert (gone["usable"], gone["missing"]) == (False, ["gone"])


def test_an_argument_is_refused(capsys):
    assert main(["backends", "local"]) == 2
    assert "takes no argument, got local" in capsys.readouterr().err
