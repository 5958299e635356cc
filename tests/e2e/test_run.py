"""One TOML becomes one finished run: what it leaves, what it learns, what it says when it cannot."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from retrain import run, tiny, tracking
from retrain.config import compose
from retrain.errors import ConfigError, RunError
from retrain.store import RunRecord, read_metrics
from tests.models import make_llama, make_qwen2

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_a_run_leaves_everything_it_did(train):
    directory = train("--log-dir", "logs/mini", "--adapter-path", "adapters/mini", "--tags", "{why: test}")
    record = RunRecord.read(directory)
    assert (record.state, record.steps_done, record.seed, record.name) == ("done", 4, 42, "mini")
    assert record.dataset["rows"] > 1000
    assert record.versions["trl"]
    lines = read_metrics(directory)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    expected = {"reward/mean", "groups/informative", "entropy/mean", "ratio/p99", "policy/loss", "policy/grad_norm"}
    expected |= {"policy/lr", "policy/clip_share", "tokens/trained", "time/generate", "time/train", "time/total"}
    assert expected <= lines[0].keys()
    rollouts = pq.read_table(directory / "rollouts" / "step-4.parquet").to_pylist()
    assert len(rollouts) == 16
    for row in rollouts:
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["entropies"]) == len(row["advantages"])
        assert row["policy_version"] == 3
        assert row["answer"].isdigit()
    assert sum(row["reward"] for row in rollouts) / 16 == pytest.approx(lines[3]["reward/mean"])
    assert sorted(p.name for p in (directory / "checkpoints").iterdir()) == [f"step-{n}" for n in (1, 2, 3, 4)]
    base = AutoModelForCausalLM.from_pretrained(tiny.path())
    for place in (directory / "adapter", Path("adapters/mini")):
        adapter = PeftModel.from_pretrained(base, str(place))
        assert any(p.abs().max() > 0 for n, p in adapter.named_parameters() if "lora_B" in n)


def test_the_ratio_is_one_for_every_token_at_the_first_step(train):
    first = read_metrics(train("--max-steps", "1"))[0]
    assert first["ratio/p99"] < 2e-5
    assert first["ratio/outside"] == 0


def test_a_second_run_into_the_same_place_leaves_two(train):
    names = [train("--log-dir", "logs/mini", "--max-steps", "1").name for _ in range(2)]
    assert names == ["mini", "mini-2"]


def test_without_a_log_dir_latest_points_to_the_newest(train):
    directory = train("--max-steps", "1")
    assert directory.parent == Path("outputs/tiny")
    assert (directory.parent / "latest").resolve() == directory.resolve()


@pytest.mark.slow
def test_the_demo_learns(tmp_path):
    """From about one right answer in four to at least seven in ten; the last line of stdout is the run directory."""
    command = [sys.executable, "-m", "retrain.cli.main", str(EXAMPLES / "demo.toml"), "logging.tracking_uri=none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(tmp_path / done.stdout.strip())
    rates = [line["reward/correct_rate"] for line in lines if line["step"]]
    assert 0.1 < rates[0] < 0.45
    assert sum(rates[-4:]) / 4 >= 0.7
    held_out = {line["step"]: line["eval/score"] for line in lines if "eval/score" in line}
    assert held_out.keys() == {0, 20, 40}
    assert held_out[0] < 0.45
    assert held_out[40] > 0.6
    assert tracking.wait_for_follower(tmp_path / done.stdout.strip(), 60)
    assert {"reward.png", "length.png"} <= {p.name for p in (tmp_path / done.stdout.strip() / "plots").iterdir()}


def test_a_control_of_random_rewards_does_not_learn_to_add(train):
    lines = read_metrics(train("--reward-type", "random", "--max-steps", "2"))
    assert all(0.05 < line["reward/mean"] < 0.95 for line in lines)


@pytest.mark.parametrize("mode", ["grpo", "maxrl", "rloo", "reinforce_pp"])
@pytest.mark.parametrize("loss", ["dapo", "luspo"])
def test_every_baseline_moves_the_adapter(train, mode, loss):
    lines = read_metrics(train("--advantage-mode", mode, "--loss-type", loss, "--max-steps", "2"))
    assert lines[0]["policy/grad_norm"] > 0
    assert lines[0]["advantage/max_abs"] > 0


@pytest.mark.parametrize("loss", ["cispo", "sapo", "vespo"])
def test_the_other_losses_train(train, loss):
    extra = ("--clip-eps-high", "2.0") if loss == "cispo" else ()
    assert len(read_metrics(train("--loss-type", loss, *extra, "--max-steps", "2"))) == 2


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("make", [make_llama, make_qwen2])
def test_other_models_and_tokenizers_train_from_a_folder(train, tmp_path, make):
    """A Llama without a chat template, a Qwen2 whose padding is its end token: nothing knows the tiny model by name."""
    make(tmp_path / "model")
    rows = [{"question": f"How much is {i} and {i + 1}?", "answer": str(2 * i + 1)} for i in range(32)]
    jsonl(tmp_path / "sums.jsonl", rows)
    directory = train(
        "--model", str(tmp_path / "model"), "data=jsonl", "--data-path", "sums.jsonl", "--reward-type", "random"
    )
    assert read_metrics(directory)[0]["ratio/p99"] < 1e-4
    assert RunRecord.read(directory).state == "done"


def test_word_problems_of_several_steps_train_on_a_folder_model(tmp_path, monkeypatch):
    """240 generated problems with names and units, scored by `math`, 20 steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    subprocess.run([sys.executable, str(EXAMPLES / "word_problems.py"), "240", "problems.jsonl"], check=True)
    shutil.copytree(tiny.path(), tmp_path / "model")
    (tmp_path / "words.toml").write_text((EXAMPLES / "word_problems.toml").read_text())
    arguments = ["--model", str(tmp_path / "model"), "--logging-tracking-uri", "none", "--batch-size", "2"]
    directory = run.run(compose(Path("words.toml"), arguments)).dir
    lines = read_metrics(directory)
    lines = [line for line in lines if line["step"]]
    assert len(lines) == 20
    assert all(line["reward/unscorable"] == 0 for line in lines)
    assert RunRecord.read(directory).dataset["rows"] == 216, "a tenth is held out"


def test_the_readmes_mini_toml_fails_only_at_the_download(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "empty"), "HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    place = tmp_path / "here"
    place.mkdir()
    command = [sys.executable, "-m", "retrain.cli.main", str(EXAMPLES / "mini.toml")]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Qwen/Qwen3-4B-Instruct-2507" in done.stderr
    assert "local_files_only" in done.stderr
    assert "EleutherAI/hendrycks_math" in done.stderr, "model and data are looked for before anything is said"
    assert list(place.iterdir()) == []


def test_the_same_toml_trains_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    shutil.copytree(tiny.path(), tmp_path / "model")
    arguments = ["--model", "./model", "data=arithmetic", "--max-steps", "2", "--max-tokens", "24"]
    directories = [run.run(compose(EXAMPLES / "mini.toml", arguments)).dir for _ in range(2)]
    assert [str(d) for d in directories] == ["logs/mini", "logs/mini-2"]
    assert (tmp_path / "adapters" / "mini" / "adapter_config.json").exists()


def test_an_adapter_path_never_replaces_anything_but_an_adapter(train, tmp_path):
    """Refused before anything starts; an adapter of an earlier run is replaced, and the run says so."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    before = sorted(tmp_path.iterdir())
    for place, said in {
        "thesis": "something else",
        "file": "is a file",
        ".": "working directory",
        "..": "above",
    }.items():
        with pytest.raises(ConfigError, match=said):
            train("--adapter-path", place)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        train("--adapter-path", "empty", "--max-steps", "1")
    assert (tmp_path / "empty" / "adapter_config.json").exists()


def test_a_run_of_a_runs_config_keeps_the_name_of_its_toml(train):
    first = train("--max-steps", "1")
    again = run.run(compose(first / "config.toml")).dir
    assert again.parent == first.parent
    assert RunRecord.read(again).name.startswith("tiny ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "./absent"), "absent"),
        (("data=jsonl", "--data-path", "absent.jsonl"), "absent.jsonl"),
        (("--reward-type", "my_rewards:absent"), "my_rewards"),
        (("--devices", "gpu:7"), "gpu"),
        (("--log-dir", "tiny.toml/run"), "tiny.toml"),
        (("--max-tokens", "100000"), "100000"),
    ],
)
def test_bad_input_leaves_nothing_on_disk(train, tmp_path, arguments, said):
    with pytest.raises(ConfigError, match=said):
        train(*arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


def test_what_is_wrong_with_model_data_and_reward_is_said_at_once(train, tmp_path):
    jsonl(tmp_path / "bad.jsonl", [{"question": "a", "answer": "1"}, {"question": "b"}])
    (tmp_path / "my_rewards.py").write_text("def good(response, reference):\n    return 1.0\n")
    with pytest.raises(ConfigError) as caught:
        train("data=jsonl", "--data-path", "bad.jsonl", "--reward-type", "my_rewards:absent")
    assert "bad.jsonl:2" in str(caught.value)
    assert "absent" in str(caught.value)


def test_a_reward_that_always_fails_stops_the_run_and_loses_nothing(train, tmp_path):
    (tmp_path / "my_rewards.py").write_text("def broken(response, reference):\n    return 1 / 0\n")
    with pytest.raises(RunError, match="ZeroDivisionError"):
        train("--reward-type", "my_rewards:broken", "--log-dir", "run")
    record = RunRecord.read(tmp_path / "run")
    assert record.state == "failed"
    assert "ZeroDivisionError" in record.exit_reason
    assert [line["reward/errors"] for line in read_metrics(tmp_path / "run")] == [1.0, 1.0]
    assert "division by zero" in (tmp_path / "run" / "log.txt").read_text()


def test_a_reward_of_parts_is_logged_by_part(train, tmp_path):
    (tmp_path / "my_parts.py").write_text(
        "def short(response, reference):\n"
        "    return {'reward': float(reference in response), 'length': float(len(response))}\n"
    )
    lines = read_metrics(train("--reward-type", "my_parts:short", "--max-steps", "2"))
    assert all(line["reward/length"] > 1 for line in lines)


def test_a_loss_that_is_not_finite_stops_the_run(train, tmp_path, monkeypatch):
    real = torch.nn.utils.get_total_norm
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: real(gradients) * math.nan)
    with pytest.raises(RunError, match="gradient norm nan"):
        train("--log-dir", "run")
    assert RunRecord.read(tmp_path / "run").state == "failed"


def test_a_sampler_at_another_temperature_stops_the_run(train, tmp_path, monkeypatch):
    from retrain.engines import pytorch

    real = pytorch.draw
    monkeypatch.setattr(pytorch, "draw", lambda *a, temperature, **k: real(*a, temperature=1.3 * temperature, **k))
    with pytest.raises(RunError, match="sampler and trainer disagree"):
        train("--log-dir", "run")
    assert RunRecord.read(tmp_path / "run").state == "failed"
    assert read_metrics(tmp_path / "run") == []
