"""The wheel, installed alone elsewhere: group files, templates and the tiny model are in it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from retrain import __version__

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def call(*command, cwd, **environment):
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), ".", cwd=REPOSITORY)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with nothing but the wheel; the packages it depends on come from the test's own environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    call(*pip, str(wheel), cwd=target)
    return target


def retrain(installed, *arguments, cwd):
    """Run the installed console script; PYTHONPATH comes before an editable install of the repository."""
    return call(sys.executable, str(installed / "bin" / "retrain"), *arguments, cwd=cwd, PYTHONPATH=str(installed))


def test_the_wheel_holds_every_resource_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    groups = [f"retrain/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.toml")]
    resources = [
        str(path.relative_to(REPOSITORY))
        for folder in (
            "retrain/tiny/weights",
            "retrain/cli/templates",
            "retrain/cli/plugin_templates",
            "retrain/cli/completion_scripts",
            "retrain/manual",
        )
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert set(groups) | set(resources) <= set(names)
    assert {name.split("/")[0] for name in names} == {"retrain", f"retrain-{__version__}.dist-info"}


def test_the_installed_command_is_the_wheels(installed, tmp_path):
    program = "import retrain; print(retrain.__file__)"
    assert call(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed)).startswith(str(installed))
    assert retrain(installed, "--version", cwd=tmp_path) == f"retrain {__version__}\n"


def test_it_finds_its_group_files_and_its_model_from_another_folder(installed, tmp_path):
    (tmp_path / "a.toml").write_text('[defaults]\nmodel = "tiny"\ndata = "arithmetic"\n')
    found = json.loads(retrain(installed, "explain", "a.toml", "--json", cwd=tmp_path))
    assert found["config"]["model"]["model"] == "builtin:tiny"
    assert found["derived"]["model"]["parameters"] > 100_000
    assert found["sources"]["keys"]["data.source"]["file"] == "conf/data/arithmetic.toml"


def test_its_templates_compose(installed, tmp_path):
    retrain(installed, "init", cwd=tmp_path)
    assert "optimiser steps" in retrain(installed, "explain", cwd=tmp_path)


def test_its_manual_is_found_and_searched(installed, tmp_path):
    assert retrain(installed, "man", "sepa", cwd=tmp_path).startswith("# sepa: ")
    assert retrain(installed, "man", "--search", "lora rank", cwd=tmp_path).startswith("model.lora_rank ")
