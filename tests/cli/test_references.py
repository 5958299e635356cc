"""What may be written for a run."""

import json
from pathlib import Path

import pytest

from retrain.cli.references import find_run
from retrain.errors import ConfigError


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """Runs of three TOMLs; mini's newest is not the last by name, so that names cannot stand in for times."""
    monkeypatch.chdir(tmp_path)
    for number, run in enumerate(["mini/2025-01-01_a", "mini/2025-03-03_c", "mini/2025-02-02_b", "maths/2025-04-04"]):
        make("outputs/" + run, started=100.0 + number)
    Path("outputs/mini/latest").symlink_to("2025-02-02_b", target_is_directory=True)
    Path("outputs/empty").mkdir()


def make(path, started):
    Path(path).mkdir(parents=True)
    Path(path, "run.json").write_text(json.dumps({"started": started}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("outputs/mini/2025-01-01_a", "mini/2025-01-01_a"),
        ("outputs/mini/latest", "mini/latest"),
        ("outputs/mini", "mini/2025-02-02_b"),
        ("mini", "mini/2025-02-02_b"),
        ("mini@-1", "mini/2025-02-02_b"),
        ("mini@-2", "mini/2025-03-03_c"),
        ("mini@-3", "mini/2025-01-01_a"),
        ("min", "mini/2025-02-02_b"),
        ("mini/2025-01", "mini/2025-01-01_a"),
        ("2025-03", "mini/2025-03-03_c"),
        ("2025-04", "maths/2025-04-04"),
        ("latest", "maths/2025-04-04"),
    ],
)
def test_a_reference_finds_its_run(text, expected):
    assert find_run(text) == Path("outputs", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m", "fits 4 runs; write more of it"),
        ("2025", "fits 4 runs"),
        ("mini@-4", "there are only 3 such runs"),
        ("mnii", 'did you mean "mini"?'),
        ("zzz", "there is no run zzz"),
        ("empty", "there is no run empty"),
    ],
)
def test_a_reference_that_means_no_single_run_is_an_error(text, expected):
    with pytest.raises(ConfigError, match="run") as caught:
        find_run(text)
    assert expected in str(caught.value)


def test_a_run_outside_outputs_is_found_by_its_path(tmp_path):
    make("logs/mini", started=1.0)
    assert find_run("logs/mini") == Path("logs/mini")
    assert find_run(str(tmp_path / "logs" / "mini")) == tmp_path / "logs" / "mini"


def test_without_any_outputs_the_error_says_where_was_looked(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no folder outputs here"):
        find_run("mini")


def test_a_damaged_run_json_does_not_hide_the_other_runs():
    Path("outputs/mini/2025-01-01_a/run.json").write_text("{")
    assert find_run("maths") == Path("outputs/maths/2025-04-04")
