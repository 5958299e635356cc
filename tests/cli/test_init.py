"""`retrain init`: templates compose, say what is next, and overwrite nothing."""

import json
from importlib import resources
from pathlib import Path

import pytest

from retrain.cli.init import TEMPLATES, template
from retrain.cli.main import main
from retrain.config import compose

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_can_be_explained_as_it_is(name, folder, capsys):
    assert main(["init", "--template", name]) == 0
    assert (folder / "retrain.toml").read_text() == template(name)
    assert main(["explain"]) == 0
    assert "optimiser steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_commented_out_line_of_a_template_composes_too(name, folder):
    text = template(name)
    for line in text.splitlines():
        key = line.removeprefix("# ")
        if line.startswith("# ") and key.split(" = ")[0].isidentifier() and " = " in key:
            text = text.replace(line, key)
    lines = text.splitlines()
    text = "\n".join(line for line in lines if not (line.startswith('source = "math"') and 'source = "jsonl"' in lines))
    (folder / "all.toml").write_text(text)
    (folder / "problems.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    assert compose(Path("all.toml")).config.training.max_steps > 0


def test_templates_and_their_files_are_the_same_set():
    files = resources.files("retrain.cli").joinpath("templates").iterdir()
    assert {Path(str(file)).stem for file in files} == set(TEMPLATES)


def test_the_demo_template_is_the_demo_experiment_written_out(folder):
    (folder / "demo.toml").write_text(template("demo"))
    written, example = compose(Path("demo.toml")).config, compose(REPOSITORY / "examples" / "demo.toml").config
    written.logging = example.logging
    assert written == example


def test_an_existing_file_is_never_overwritten(folder, capsys):
    (folder / "retrain.toml").write_text("mine")
    assert main(["init"]) == 2
    assert "retrain.toml exists already" in capsys.readouterr().err
    assert (folder / "retrain.toml").read_text() == "mine"


def test_output_names_the_file_and_what_to_type_next(folder, capsys):
    assert main(["init", "--template", "quickstart", "--output", "first.toml"]) == 0
    err = capsys.readouterr().err
    assert (folder / "first.toml").exists()
    assert "retrain first.toml" in err
    assert "retrain explain first.toml" in err


def test_a_file_that_cannot_be_written_is_an_error(capsys):
    assert main(["init", "--output", "no/such/folder/a.toml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_unknown_template_names_the_nearest(capsys):
    assert main(["init", "--template", "quikstart"]) == 2
    assert 'did you mean "quickstart"?' in capsys.readouterr().err


def test_the_list_for_programs_names_the_template_that_is_written_without_a_name(capsys):
    assert main(["init", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["templates"]
    assert {one["name"]: one["summary"] for one in found} == TEMPLATES
    assert [one["name"] for one in found if one["default"]] == ["demo"]
    assert main(["init", "--json"]) == 2


def test_list_shows_every_template_and_writes_nothing(folder, capsys):
    assert main(["init", "--list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == list(TEMPLATES)
    assert list(folder.iterdir()) == []
