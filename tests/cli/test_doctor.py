"""`retrain doctor` as a user meets it: with and without a config, exit codes, what is shown, what is left alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from retrain.cli.doctor import lines_of
from retrain.cli.main import main
from retrain.cli.status_view import Style
from retrain.doctor import machine
from retrain.doctor.finding import Finding
from retrain.engines.options import PYTORCH
from tests.cli.test_processes import HEAVY

TOML = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[training]
max_steps = 4
max_tokens = 16
batch_size = 8
group_size = 4
"""
CAMPAIGN = """
[campaign]
seeds = [1, 2, 3, 4]
[[campaign.conditions]]
algorithm = "grpo"
[[campaign.conditions]]
name = "coin"
overrides = ["reward.type=random"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(machine, "ask_torch", lambda: machine.Torch(version="2.9", threads=1))
    (tmp_path / "mini.toml").write_text(TOML)
    (tmp_path / "abl.toml").write_text(TOML + CAMPAIGN)
    return tmp_path


def document(capsys, *arguments, code=0):
    assert main(["doctor", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def by_name(document, family):
    return {check["name"]: check for check in document["checks"] if check["family"] == family}


def test_without_a_config_nothing_heavy_is_imported_and_nothing_written(tmp_path):
    program = (
        "import sys, json; from retrain.cli.main import main; code = main(['doctor', '--json']); "
        f"json.dump([code, [m for m in {HEAVY!r} if m in sys.modules]], sys.stderr)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment, check=False
    )
    assert json.loads(done.stderr) == [0, []]
    found = json.loads(done.stdout)
    assert (found["config"], found["probe"]) == (None, False)
    assert by_name(found, "machine")["torch"]["verdict"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_the_keys_of_the_json_document_are_these(folder, capsys):
    found = document(capsys, "mini.toml")
    assert list(found) == ["config", "conditions", "probe", "verdict", "fix", "checks"]
    for check in found["checks"]:
        assert set(check) == {"family", "name", "condition", "verdict", "found", "fix", "seconds"}
        assert check["verdict"] in ("ok", "warn", "fail", "skipped")
    assert (found["config"], found["conditions"]) == ("mini.toml", [])


def test_a_config_that_runs_is_probed_and_nothing_is_written(folder, capsys):
    found = document(capsys, "mini.toml", "--probe")
    assert found["verdict"] in ("ok", "warn")
    probe = by_name(found, "probe")
    assert probe["sampling"]["found"].startswith("256 completions of 64 prompts")
    assert probe["informative"]["found"].endswith("all wrong")
    assert "% of completions are cut at 16 tokens" in probe["truncated"]["found"]
    assert (probe["ratio"]["verdict"], "p99" in probe["ratio"]["found"]) == ("ok", True)
    assert probe["duration"]["found"] == "about 1 min"
    assert sorted(path.name for path in folder.iterdir()) == ["abl.toml", "mini.toml"]


def test_a_probe_in_half_precision_reports_the_ratios_and_holds_them_to_the_wider_bound(folder, capsys):
    found = document(capsys, "mini.toml", "--probe", "--model-dtype", "bfloat16")
    assert by_name(found, "probe")["ratio"]["verdict"] == "ok"


def test_a_sampler_that_is_another_policy_than_the_trainer_fails_the_probe(folder, capsys, monkeypatch):
    from retrain.engines.pytorch import PytorchEngine

    generate = PytorchEngine.generate

    def hotter(self, prompts, *, sampling, **options):
        from dataclasses import replace

        return generate(self, prompts, sampling=replace(sampling, temperature=2.0), **options)

    monkeypatch.setattr(PytorchEngine, "generate", hotter)
    found = document(capsys, "mini.toml", "--probe", code=1)
    ratio = by_name(found, "probe")["ratio"]
    assert (ratio["verdict"], "sampler and trainer disagree" in ratio["found"]) == ("fail", True)
    assert found["fix"].startswith("ratio: check training.temperature")


def test_everything_that_is_wrong_with_a_toml_is_found_and_the_exit_code_is_1(folder, capsys):
    (folder / "bad.toml").write_text('[model]\nmodle = "x"\n[training]\nlr = "fast"\n')
    found = document(capsys, "bad.toml", code=1)
    assert [check["found"].partition(": ")[0] for check in found["checks"] if check["family"] == "config"] == [
        "bad.toml:2",
        "bad.toml:4",
    ]
    assert found["verdict"] == "fail"
    assert main(["doctor", "bad.toml"]) == 1
    out = capsys.readouterr().out
    assert "did you mean model?\n" in out
    assert "bad.toml would not run here: 2 checks failed" in out


def test_a_config_that_cannot_run_says_the_one_thing_to_do_first(folder, capsys):
    assert main(["doctor", "mini.toml", "--max-tokens", "5000"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-2] == "mini.toml would not run here: 1 check failed"
    assert out.splitlines()[-1].startswith("first: lengths: --max-tokens ")


def test_a_missing_extra_fails_and_what_needs_it_is_skipped(folder, capsys, monkeypatch):
    monkeypatch.setattr("retrain.engines.options.PYTORCH", replace(PYTORCH, modules=("no_such",)))
    config = by_name(document(capsys, "mini.toml", code=1), "config")
    assert config["packages"]["fix"] == 'pip install "retrain[local]"'
    assert config["tokenizer"]["verdict"] == "skipped"


def test_with_the_core_alone_a_config_fails_with_what_installs_the_rest(tmp_path):
    """The modules are hidden from a new process, as if only the core were installed."""
    (tmp_path / "mini.toml").write_text(TOML.replace("[data]", 'adapter = "a/b"\n[data]'))
    program = (
        "import importlib.util as u, sys; found = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name in {HEAVY!r} else found(name, *a)\n"
        f"from retrain.cli.main import main; code = main(sys.argv[1:])\n"
        f"assert not [m for m in {HEAVY!r} if m in sys.modules]; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "doctor", "mini.toml", "--probe", "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert found["fix"] == 'packages: pip install "retrain[local]"'
    assert {check["verdict"] for check in found["checks"] if check["family"] in ("data", "probe")} == {"skipped"}


def test_the_conditions_of_a_campaign_are_looked_at_once_each(folder, capsys):
    found = document(capsys, "abl.toml")
    assert found["conditions"] == ["grpo+none", "coin"]
    assert [check["name"] for check in found["checks"] if check["condition"] == "coin"] == ["reward"]
    (directory,) = [check for check in found["checks"] if check["name"] == "directory"]
    assert "8 runs, at most" in directory["found"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.toml"], "nothing.toml"),
        (["--probe"], "--probe samples from the model of a config"),
        (["--lr", "1e-5"], "no config was given"),
        (["mini.toml", "--json=yes"], "--json takes no value"),
    ],
)
def test_wrong_arguments_exit_with_2_before_anything_is_looked_at(folder, capsys, arguments, said):
    assert main(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True)


def test_retrain_toml_of_this_folder_is_the_config_where_none_is_named(folder, capsys):
    (folder / "retrain.toml").write_text(TOML)
    assert document(capsys)["config"] == "retrain.toml"


# --- how it looks ---------------------------------------------------------------------------------------------------

WARNED = Finding(
    name="hub", family="services", condition="", verdict="warn", seconds=0.1, found="no answer " * 12, fix="one\ntwo"
)


def test_in_a_pipe_lines_are_plain_and_whole():
    first, fix, more = lines_of(WARNED, Style())
    assert first == "  warn     hub           " + ("no answer " * 12).strip()
    assert (fix.strip(), more.strip()) == ("fix: one", "two")


@pytest.mark.parametrize("width", [40, 63, 64, 80, 200])
def test_on_a_terminal_lines_fit_and_what_was_found_is_aligned(width):
    lines = lines_of(WARNED, Style(width=width))
    assert all(len(line) <= width for line in lines)
    if width >= 64:
        assert {line[:25] for line in lines[1:]} == {" " * 25}
    else:
        assert lines[0] == "  warn     hub"


def test_only_a_terminal_gets_colours_and_not_with_no_color(monkeypatch):
    class Terminal:
        encoding = "utf-8"
        isatty = staticmethod(lambda: True)

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert lines_of(WARNED, Style.of(Terminal()))[0].startswith("  \x1b[33mwarn")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(lines_of(WARNED, Style.of(Terminal())))


def test_quiet_shows_the_verdict_and_only_what_went_wrong(folder, capsys):
    assert main(["doctor", "mini.toml", "--quiet"]) == 0
    quiet = capsys.readouterr().out
    assert main(["doctor", "mini.toml"]) == 0
    whole = capsys.readouterr().out
    assert "\n  ok " in whole
    assert "\n  ok " not in quiet
    assert quiet.splitlines()[-1] in whole
