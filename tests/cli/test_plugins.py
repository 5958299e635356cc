"""`retrain plugins`: every name, where it comes from and what it takes, without running anything."""

import json
import os
import subprocess
import sys

import pytest

from retrain import registry
from retrain.cli.main import main
from retrain.cli.plugin_source import read
from retrain.config import schema

BOMB = "raise SystemExit('imported')\n"
PLUGIN = f'''"""Transforms of this test.

More about them.
"""
from dataclasses import dataclass, field
from typing import ClassVar

{BOMB}

@dataclass(frozen=True)
class Fielded:
    """Do one thing. And nothing else."""

    rho: float = 0.5
    names: list = field(default_factory=list)
    kept: dict = field(init=False)
    scale: ClassVar[float] = 2.0
    scope = "row"
    wanted: int

class Plain:
    hidden: float = 1.0

def plain(credit, ctx):
    return credit

def factory(*, eta: float = 0.5, sign=-1):
    """Make two
    of them: here."""

def positional(eta=1e-3): ...

async def waits(response, reference): ...

alias = Plain
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bombs.py").write_text(PLUGIN)
    return tmp_path


def listed(capsys, *arguments):
    assert main(["plugins", "--json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"plugins"}
    return document["plugins"]


def test_every_built_in_name_of_every_kind_is_listed_with_its_meaning(capsys):
    found = {(plugin["kind"], plugin["name"]): plugin["summary"] for plugin in listed(capsys)}
    table = {(kind, name): entry.summary for kind, names in registry.BUILTIN.items() for name, entry in names.items()}
    assert table.items() <= found.items()


def test_the_keys_of_the_json_document_are_these(capsys):
    for plugin in listed(capsys):
        assert set(plugin) == {"kind", "name", "origin", "where", "target", "summary", "options"}
        assert all(set(option) == {"name", "type", "default", "help"} for option in plugin["options"] or [])


def test_the_options_of_a_built_in_transform_are_those_of_its_section(capsys):
    found = {plugin["name"]: plugin["options"] for plugin in listed(capsys, "--kind", "transform")}
    for name, section in {"gtpo": schema.Gtpo(), "sepa": schema.Sepa(), "hicra": schema.Hicra()}.items():
        assert {option["name"]: option["default"] for option in found[name]} == vars(section)
    assert [option["type"] for option in found["sepa"]] == ["int", "str", "int", "float"]
    assert found["whiten"] == []


def test_one_kind_can_be_asked_for_and_a_wrong_one_is_answered(capsys):
    assert {plugin["kind"] for plugin in listed(capsys, "--kind", "signal")} == {"signal"}
    assert main(["plugins", "--kind", "signals"]) == 2
    assert 'did you mean "signal"?' in capsys.readouterr().err


def test_the_text_says_which_key_chooses_and_what_an_option_means(capsys):
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "baseline: algorithm.advantage_mode" in out
    assert f"beta = {schema.Gtpo().beta}  {schema.KEYS['gtpo.beta'].help[:20]}" in out
    assert all(len(line) <= 120 for line in out.splitlines())


def test_an_installed_package_is_listed_from_its_metadata_and_not_imported(folder):
    dist = folder / "site" / "strict_rewards-1.2.dist-info"
    dist.mkdir(parents=True)
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: strict-rewards\nVersion: 1.2\nSummary: Very strict.\n")
    (dist / "entry_points.txt").write_text("[retrain.rewards]\nstrict = bombs:score\nmatch = bombs:score\n")
    command = [sys.executable, "-m", "retrain.cli.main", "plugins", "--kind", "reward", "--json"]
    path = os.pathsep.join([str(folder / "site"), str(folder)])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert found["strict"] == {
        "kind": "reward",
        "name": "strict",
        "origin": "entry point",
        "where": "strict-rewards 1.2",
        "target": "bombs:score",
        "summary": "Very strict.",
        "options": None,
    }
    assert found["match"]["origin"] == "built-in"


def test_a_config_adds_the_modules_that_it_names_and_none_is_run(folder, capsys):
    (folder / "mini.toml").write_text(
        '[model]\nmodel = "builtin:tiny"\n[data]\nsource = "arithmetic"\n[reward]\ntype = "bombs.waits"\n'
        '[algorithm]\ntransforms = [{ name = "bombs:Fielded", rho = 0.1, wanted = 1 }, { name = "gtpo" }]\n'
    )
    found = [plugin for plugin in listed(capsys, "mini.toml") if plugin["origin"] == "module"]
    assert [(p["kind"], p["name"], p["target"]) for p in found] == [
        ("transform", "bombs:Fielded", "bombs:Fielded"),
        ("reward", "bombs.waits", "bombs:waits"),
    ]
    assert {p["where"] for p in found} == {str(folder / "bombs.py")}
    assert main(["plugins", "mini.toml"]) == 0
    assert "Do one thing (module: bombs.py)" in " ".join(capsys.readouterr().out.split())


def test_a_plugin_that_is_a_transform_mode_is_listed_as_a_transform(folder, capsys):
    (folder / "mini.toml").write_text(
        '[model]\nmodel = "builtin:tiny"\n[data]\nsource = "arithmetic"\n'
        '[algorithm]\ntransform_mode = "bombs.factory"\ntransform_params = { eta = 0.1 }\n'
    )
    (found,) = [plugin for plugin in listed(capsys, "mini.toml") if plugin["origin"] == "module"]
    assert (found["kind"], found["name"], found["summary"]) == ("transform", "bombs.factory", "Make two of them: here")


def test_what_is_wrong_with_the_config_is_said(folder, capsys):
    (folder / "mini.toml").write_text('[reward]\ntype = "nowhere:score"\n')
    assert main(["plugins", "mini.toml"]) == 2
    assert "there is no module nowhere" in capsys.readouterr().err
    assert main(["plugins", "a.toml", "b.toml"]) == 2
    assert "takes one CONFIG, got 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "attribute", "options"),
    [
        ("transform", "Fielded", [("rho", 0.5), ("names", "field(default_factory=list)"), ("wanted", None)]),
        ("transform", "Plain", []),
        ("transform", "plain", []),
        ("transform", "factory", [("eta", 0.5), ("sign", -1)]),
        ("transform", "positional", [("eta", 0.001)]),
        ("reward", "positional", []),
        ("reward", "waits", []),
        ("transform", "alias", None),
    ],
)
def test_options_are_read_from_the_source(kind, attribute, options, folder):
    found = read(kind, "bombs", attribute, [folder]).options
    assert options == (None if found is None else [(option.name, option.default) for option in found])


def test_a_module_within_a_package_is_found_without_running_the_package(folder):
    (folder / "pack" / "inner").mkdir(parents=True)
    (folder / "pack" / "__init__.py").write_text(BOMB)
    (folder / "pack" / "rewards.py").write_text('def score(response, reference):\n    "Be kind."\n')
    (folder / "pack" / "inner" / "__init__.py").write_text('"""Inside."""\nscore = None\n')
    assert read("reward", "pack.rewards", "score", [folder]).summary == "Be kind"
    assert read("reward", "pack.inner", "score", [folder]).summary == "Inside"
    assert read("reward", "pack.absent", "score", [folder]).options is None


def test_a_file_that_cannot_be_parsed_is_listed_without_a_description(folder):
    (folder / "torn.py").write_text("def score(:\n")
    found = read("reward", "torn", "score", [folder])
    assert (found.file, found.summary, found.options) == (str(folder / "torn.py"), "", None)
