"""`retrain eval`: what a name means, and what is refused before anything is loaded."""

import json

import pytest

from retrain.cli.eval import table
from retrain.cli.main import main
from retrain.score import Scored, Weights, find, plan
from retrain.store import RunRecord
from retrain.types import HeldOut, Sampling

TOML = '[model]\nmodel = "org/base"\nlora_rank = 4\n[data]\nsource = "arithmetic"\n[training]\nseed = 7\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.toml").write_text(TOML)
    return tmp_path


def adapter(place, base="org/base", rank=4):
    place.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "base_model_name_or_path": base}
    (place / "adapter_config.json").write_text(json.dumps(config))
    (place / "adapter_model.safetensors").write_bytes(b"")
    return place


def run(place, *, state="done", toml=TOML):
    place.mkdir(parents=True)
    (place / "config.toml").write_text(toml)
    RunRecord(name="mini", state=state, seed=7, max_steps=4, started=0.0).write(place)
    return place


def test_a_name_is_a_folder_then_a_run_then_a_model_of_the_hub(folder):
    place = run(folder / "outputs/mini/1")
    own = adapter(place / "adapter")
    best = adapter(place / "adapter-best")
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text("{}")
    loose = adapter(folder / "loose")
    assert find("mini") == Weights(kind="run", name="outputs/mini/1/adapter", is_adapter=True, run=find("mini").run)
    assert find("mini", best=True).name == "outputs/mini/1/adapter-best"
    assert find(str(best)) == Weights(kind="adapter", name=str(best), is_adapter=True, run=place)
    assert find(str(own)).run == place
    assert find(str(loose)).run is None
    assert find("base") == Weights(kind="model", name="base", is_adapter=False)
    assert find("builtin:tiny").kind == find("org/model").kind == "model"


def test_a_run_of_full_training_is_a_model(folder):
    place = run(folder / "whole", toml=TOML.replace("lora_rank = 4", "lora_rank = 0").replace("seed = 7", "lr = 1e-6"))
    (place / "model").mkdir()
    found = find("whole")
    assert (found.is_adapter, found.name) == (False, "whole/model")
    config = plan(found, None).config
    assert (config.model.model, config.model.adapter, config.model.lora_rank) == ("whole/model", "", 0)


@pytest.mark.parametrize(
    ("arguments", "said", "fix"),
    [
        ([], "takes a RUN, an ADAPTER or a MODEL first", "--help"),
        (["--json"], "takes a RUN, an ADAPTER or a MODEL first", "--help"),
        (["nothing"], "there is no run nothing", "a hub id such as org/name"),
        (["builtin:tiny", "--best"], "is no run", ""),
        (["builtin:tiny", "--checkpoint", "last"], 'takes the number of a step, got "last"', "--help"),
        (["mini", "--best", "--checkpoint", "2"], "take one at a time", ""),
        (["builtin:tiny", "minni.toml"], "there is no file minni.toml", "--help"),
        (["builtin:tiny"], "what is builtin:tiny to be scored on?", "data=gsm8k"),
        (["builtin:tiny", "--max-tokens", "9"], "what is builtin:tiny to be scored on?", "data=gsm8k"),
        (["builtin:tiny", "mini.toml", "--no-such-flag"], "there is no such flag", ""),
        (["unfinished"], "has no adapter; its state is failed", "it has: --checkpoint 2"),
        (["unfinished", "--checkpoint", "2"], "cannot be used: its manifest", ""),
        (["nameless", "data=arithmetic"], "does not name the model", "--model ID"),
        (["mini.toml"], "there is no run mini.toml", "hub id"),
        (["weightless", "data=arithmetic"], "weightless has no weights", "adapter_model.safetensors"),
        (["damaged", "data=arithmetic"], "damaged cannot be read", ""),
    ],
)
def test_what_cannot_be_scored_is_refused_with_what_to_type(folder, capsys, arguments, said, fix):
    (run(folder / "unfinished", state="failed") / "checkpoints/step-2").mkdir(parents=True)
    adapter(folder / "nameless", base=None)
    (adapter(folder / "weightless") / "adapter_model.safetensors").unlink()
    (adapter(folder / "damaged") / "adapter_config.json").write_text("{")
    assert main(["eval", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert fix in err


def test_the_config_is_the_run_s_and_the_model_stays_the_run_s_when_another_is_given(folder):
    adapter(run(folder / "mini") / "adapter")
    own = plan(find("mini"), None)
    assert (own.config.training.seed, own.config.model.model) == (7, "org/base")
    assert (own.config.model.adapter, own.config.model.lora_rank, own.config.lora.alpha) == ("mini/adapter", 4, 16)
    (folder / "other.toml").write_text('[model]\nmodel = "org/other"\n[data]\nsource = "gsm8k"\n')
    other = plan(find("mini"), folder / "other.toml", ["--eval-samples", "4"], test=True)
    assert (other.config.model.model, other.config.data.source) == ("org/base", "gsm8k")
    assert (other.config.eval.samples, other.config.eval.final_test, other.test) == (4, True, True)


def test_the_adapter_that_a_run_began_with_need_not_be_there_any_more(folder):
    adapter(run(folder / "second", toml=TOML.replace("[data]", 'adapter = "./gone"\n[data]')) / "adapter")
    assert plan(find("second"), None).config.model.adapter == "second/adapter"


def test_an_adapter_goes_on_its_own_model_unless_the_config_names_one(folder):
    loose = find(str(adapter(folder / "loose", base="org/own")))
    assert plan(loose, None, ["data=arithmetic"]).config.model.model == "org/own"
    assert plan(loose, folder / "mini.toml").config.model.model == "org/base"
    assert plan(loose, None, ["data=arithmetic", "--model", "org/moved"]).config.model.model == "org/moved"


def test_a_model_brings_neither_adapter_nor_another_model_s_revision(folder):
    toml = TOML.replace("[data]", 'revision = "v1"\n[data]\nchat_template_args = { enable_thinking = false }')
    (folder / "pinned.toml").write_text(toml)
    other = plan(find("org/model"), folder / "pinned.toml").config
    assert (other.model.model, other.model.revision, other.model.lora_rank) == ("org/model", "", 0)
    assert other.data.chat_template_args == {}  # they were the other model's
    same = plan(find("org/base"), folder / "pinned.toml").config
    assert (same.model.revision, same.data.chat_template_args) == ("v1", {"enable_thinking": False})


def test_a_seed_to_be_drawn_is_the_default_one_so_that_scores_can_be_compared(folder):
    config = plan(find("builtin:tiny"), None, ["data=arithmetic", "--seed", "-1"]).config
    assert config.training.seed == 42


@pytest.mark.parametrize("given", ["--checkpoint", "--checkpoint=", "--checkpoint=last", "--checkpoint=-1"])
def test_a_checkpoint_is_the_number_of_a_step(given, capsys):
    assert main(["eval", "builtin:tiny", given]) == 2
    assert "--checkpoint" in capsys.readouterr().err


def test_the_table_says_what_was_asked_how_and_how_sure(folder):
    weights = Weights(kind="model", name="builtin:tiny", is_adapter=False)
    asked = plan(weights, None, ["data=arithmetic"])
    sampling = Sampling(max_tokens=9, temperature=0.0)
    held_out = HeldOut(tasks=[], test=[], reward=None, training_reward=None, sampling=sampling, samples=2, rows=1)
    metrics = {"score": 0.25, "score_se": 0.125, "pass_at_1": 0.5, "length_mean": 3.0, "truncated_rate": 0.5}
    scored = Scored(
        plan=asked, metrics=metrics | {"unscorable": 0.0}, tasks=4, held_out=held_out, reward="match", trained_on=1
    )
    lines = table(scored).splitlines()
    assert lines[:3] == [
        "builtin:tiny",
        "held-out part of arithmetic: 4 problems, 2 completions each",
        "the likeliest token, at most 9 tokens, seed 0",
    ]
    assert "score       0.250 ± 0.125    mean reward, match" in lines
    assert "pass@1      0.500" in lines  # one problem has no spread
    assert "1 of the 4 problems were trained on: the score is too good" in lines
