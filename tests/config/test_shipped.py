"""What comes with the package: group files that compose, found wherever retrain is installed, without heavy imports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import retrain
from retrain.config import KEYS
from retrain.config.layers import CHOICES, package_conf
from retrain.config.schema import GROUPS

FILES = sorted(package_conf().glob("*/*.toml"))
PACKAGE = Path(retrain.__file__).parent


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_group_file_composes_and_says_why_it_is_there(project, path):
    project.write("problems.jsonl", "{}\n")
    extra = ["data.path=problems.jsonl"] if path.stem == "jsonl" else []
    composed = project.compose(f"{path.parent.name}={path.stem}", *extra)
    assert any(origin.file == f"conf/{path.parent.name}/{path.name}" for origin in composed.origins.values())
    assert path.read_text().startswith("# ")


def test_there_are_group_files_for_every_group_and_for_nothing_else():
    assert {path.parent.name for path in FILES} == set(CHOICES)


def test_every_group_has_keys_that_its_files_must_set():
    assert {key.section for key in KEYS.values() if key.identity} == set(GROUPS)


def python(code, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


COMPOSE = (
    "from retrain.config import compose; print(compose(None, ['algorithm=maxrl']).config.algorithm.advantage_mode)"
)


PARTS = ("__init__", "capabilities", "errors", "metrics", "registry", "signals", "types")  # what composing reads
FOLDERS = ("backends", "config", "engines")


@pytest.mark.parametrize("conf", ["retrain/conf", "conf"])
def test_group_files_are_found_inside_the_package_and_one_level_up(tmp_path, conf):
    for name in (
        "__init__.py",
        "capabilities.py",
        "errors.py",
        "metrics.py",
        "registry.py",
        "signals.py",
        "types.py",
        *FOLDERS,
    ):
        source = PACKAGE / name
        target = tmp_path / "site" / "retrain" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    shutil.copytree(package_conf(), tmp_path / "site" / conf)
    code = f"import sys; sys.path.insert(0, 'site'); {COMPOSE}; import retrain; print(retrain.__file__)"
    mode, where = python(code, tmp_path).splitlines()
    assert mode == "maxrl"
    assert Path(where).is_relative_to(tmp_path)


HEAVY = ("torch", "transformers", "trl", "mlflow", "datasets", "pandas", "matplotlib", "pyarrow", "peft")


def test_composing_imports_no_heavy_library(tmp_path):
    code = f"{COMPOSE}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code, tmp_path).splitlines() == ["maxrl", "[]"]


def test_a_wrong_file_or_argument_is_told_without_importing_hydra(tmp_path):
    (tmp_path / "mini.toml").write_text("[training]\nlrr = 1\n")
    code = (
        "import sys; from pathlib import Path; from retrain.config import compose\n"
        "try: compose(Path('mini.toml'), ['--steps', '3', 'algorithm=grpp'])\n"
        "except Exception as error: print(len(error.problems), end=' ')\n"
        f"print([m for m in (*{HEAVY}, 'hydra', 'omegaconf') if m in sys.modules])"
    )
    assert python(code, tmp_path) == "3 []"


def test_a_plugin_s_module_is_looked_up_without_being_imported(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    code = "from retrain.config import compose; print(compose(None, ['reward.type=mine:score']).config.reward.type)"
    assert python(code, tmp_path) == "mine:score"
