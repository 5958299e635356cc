"""`retrain init-plugin`: what it writes works as it is, under a name that hides nothing, and overwrites nothing."""

import subprocess
import sys
import textwrap
from importlib import resources
from pathlib import Path

import pytest

from retrain.cli.init_plugin import KINDS, attribute
from retrain.cli.main import main
from retrain.config import compose

TOML = '[model]\nmodel = "builtin:tiny"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for kind in KINDS:
        monkeypatch.delitem(sys.modules, f"my_{kind}", raising=False)  # of a test that trained with such plugins
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init_plugin(kind, name, *more):
    return main(["init-plugin", "--kind", kind, "--name", name, *more])


def written_toml(err):
    """The TOML that was printed: what is indented."""
    return textwrap.dedent("\n".join(line for line in err.splitlines() if not line or line.startswith("  ")))


@pytest.fixture
def every_kind(folder):
    for kind in KINDS:
        assert init_plugin(kind, f"my_{kind}", "--with-test") == 0
    return folder


def test_the_generated_test_of_every_kind_passes(every_kind):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in every_kind.glob("test_*.py")} == {f"test_my_{kind}.py" for kind in KINDS}


def test_what_is_generated_is_formatted_and_without_lint(every_kind):
    for command in (["check", "--select", "E,F,I,B,UP,RUF"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "88", "."]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_toml_composes_and_chooses_the_plugin(kind, folder, capsys):
    assert init_plugin(kind, f"my_{kind}") == 0
    toml = written_toml(capsys.readouterr().err)
    assert f"my_{kind}:{attribute(kind, f'my_{kind}')}" in toml
    (folder / "mini.toml").write_text(TOML + toml)
    composed = compose(Path("mini.toml"))
    assert any(f"my_{kind}:" in str(value) for value in composed.written.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_docstring_shows_the_same_choice_as_the_command(kind, folder, capsys):
    assert init_plugin(kind, "mine") == 0
    toml = written_toml(capsys.readouterr().err)
    docstring = (folder / "mine.py").read_text().split('"""')[1]
    written = [line.partition("  #")[0].strip() for line in docstring.splitlines()]
    assert [line for line in toml.splitlines() if line and line not in written] == []


def test_templates_and_kinds_are_the_same_set():
    files = resources.files("retrain.cli").joinpath("plugin_templates").iterdir()
    names = {Path(str(file)).name.removesuffix(".py.txt") for file in files}
    assert names == {*KINDS, *(f"test_{kind}" for kind in KINDS)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("early_tokens", "EarlyTokensTransform"),
        ("my_transform", "MyTransform"),
        ("credit", "CreditTransform"),
        ("transform", "Transform"),
        ("topK__x", "TopKXTransform"),
    ],
)
def test_a_class_is_named_after_the_plugin_and_never_like_what_it_imports(name, expected):
    assert attribute("transform", name) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my-plugin", "cannot be the name of a Python module"),
        ("1st", "cannot be the name of a Python module"),
        ("_mine", "cannot be the name of a Python module"),
        ("class", "cannot be the name of a Python module"),
        ("a/b", "cannot be the name of a Python module"),
        ("", "cannot be the name of a Python module"),
        ("json", "is a module of Python itself"),
        ("torch", "is a module already"),
        ("retrain", "is a module already"),
    ],
)
def test_a_name_that_cannot_be_a_module_of_ones_own_is_refused(name, said, folder, capsys):
    assert init_plugin("reward", name, "--with-test") == 2
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("existing", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten_and_nothing_is_half_written(existing, folder, capsys):
    (folder / existing).write_text("my own work")
    assert init_plugin("reward", "mine", "--with-test") == 2
    assert f"{existing} exists already" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [existing]
    assert (folder / existing).read_text() == "my own work"


def test_a_folder_of_that_name_is_no_module(folder):
    (folder / "mine").mkdir()
    assert init_plugin("reward", "mine") == 0


def test_output_names_the_folder_and_without_with_test_there_is_one_file(folder, capsys):
    (folder / "ours").mkdir()
    assert init_plugin("signal", "mine", "--output", "ours") == 0
    assert [path.name for path in (folder / "ours").iterdir()] == ["mine.py"]
    out, err = capsys.readouterr()
    assert str((folder / "ours").resolve()) in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--kind is missing"),
        (["--kind", "reward"], "--name is missing"),
        (["--kind", "transfrom", "--name", "mine"], 'did you mean "transform"?'),
        (["--kind", "reward", "mine"], "the name is given with --name mine"),
        (["--kind", "reward", "--name", "mine", "--output", "nowhere"], "nowhere is not a folder"),
        (["--kind", "reward", "--name", "mine", "--with-tests"], "did you mean --with-test?"),
    ],
)
def test_wrong_arguments_exit_2_and_write_nothing(arguments, said, folder, capsys):
    assert main(["init-plugin", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []
