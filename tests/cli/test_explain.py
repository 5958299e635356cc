"""`retrain explain`: counts, origins, formulas, what is hidden, and JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

from retrain import registry
from retrain.cli import formulas
from retrain.cli.explain import split_config
from retrain.cli.main import main
from retrain.config.schema import KEYS, Algorithm
from retrain.errors import ConfigError
from retrain.store import RunRecord


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


MINI = """\
[model]
model = "builtin:tiny"

[training]
max_steps = 20
batch_size = 2
group_size = 8
max_tokens = 1024
lr = 4e-5

[data]
source = "arithmetic"
"""


def explained(folder, capsys, *arguments, text=MINI):
    (folder / "mini.toml").write_text(text)
    assert main(["explain", "mini.toml", *arguments]) == 0
    return capsys.readouterr().out


def document(folder, capsys, *arguments, text=MINI):
    return json.loads(explained(folder, capsys, "--json", *arguments, text=text))


def test_the_first_sentence_counts_completions_tokens_and_steps(folder, capsys):
    sentence = " ".join(explained(folder, capsys).split("\n\n")[0].split())
    assert "20 optimiser steps" in sentence
    assert "16 completions (2 prompts × 8)" in sentence
    assert "16,384 at most" in sentence  # 16 · 1024
    assert "327,680 tokens at most in all" in sentence  # 20 · 16 · 1024


def test_several_steps_a_batch_mean_fewer_batches_and_clipping_that_can_act(folder, capsys):
    derived = document(folder, capsys, "--num-iterations", "3")["derived"]
    assert derived["generated_batches"] == 7  # ⌈20 / 3⌉
    assert derived["generated_tokens_at_most"] == 7 * 16 * 1024
    assert derived["clipping_can_act"] is True
    assert "Clipping can act" in derived["sentence"]


def test_with_one_step_a_batch_clipping_cannot_act(folder, capsys):
    derived = document(folder, capsys)["derived"]
    assert derived["clipping_can_act"] is False
    assert "Clipping cannot act" in derived["sentence"]


@pytest.mark.parametrize(
    ("arguments", "skips", "reason"),
    [
        ([], True, "gradient is zero"),
        (["--kl-coef", "0.1"], False, "kl_coef = 0.1"),
        (["--skip-uninformative", "false"], False, "skip_uninformative is false"),
    ],
)
def test_skipping_is_explained_with_its_reason(arguments, skips, reason, folder, capsys):
    derived = document(folder, capsys, *arguments)["derived"]
    assert derived["skips_uninformative"] is skips
    assert reason in derived["skipping_reason"]


@pytest.mark.parametrize(("keep", "kept"), [("all", 20), ("none", 0), ("5", 4)])
def test_the_disk_that_rollouts_take_follows_how_many_are_kept(keep, kept, folder, capsys):
    derived = document(folder, capsys, "--keep-rollouts", keep)["derived"]
    assert derived["rollout_bytes_at_most"] == kept * 16 * 1024 * 20


def test_a_changed_key_shows_its_line_and_a_flag_shows_what_it_shadows(folder, capsys):
    lines = explained(folder, capsys, "--lr", "1e-5").splitlines()
    steps = next(line for line in lines if "training.max_steps" in line)
    rate = next(line for line in lines if "training.lr " in line)
    assert steps.split("=")[1].split() == ["20", "mini.toml:5"]
    assert "1e-05" in rate
    assert "command line: --lr 1e-5" in rate
    assert "instead of 4e-05 (mini.toml:9)" in rate


def test_keys_at_their_default_are_shown_only_on_request(folder, capsys):
    short, long = explained(folder, capsys), explained(folder, capsys, "--all")
    assert "optimizer.beta1" not in short
    assert all(f"  {dotted} " in long for dotted in KEYS)


def test_a_group_choice_shows_the_group_file(folder, capsys):
    assert "conf/algorithm/maxrl.toml" in explained(folder, capsys, "algorithm=maxrl")


@pytest.mark.parametrize("name", registry.BUILTIN["baseline"])
def test_every_baseline_has_a_formula_that_explain_shows(name, folder, capsys):
    formula = registry.BUILTIN["baseline"][name].formula
    assert formula
    assert f"  {formula}\n" in explained(folder, capsys, "--advantage-mode", name)


def test_the_scale_is_a_line_of_its_own_for_grpo_only(folder, capsys):
    assert "std(group)" in explained(folder, capsys, "--scale-rewards", "group")
    assert not any("std" in line for line in formulas.baseline(Algorithm(advantage_mode="rloo", scale_rewards="group")))


def test_every_loss_type_of_the_schema_has_a_formula():
    assert set(formulas.LOSSES) == set(KEYS["algorithm.loss_type"].choices)


def test_the_losses_clip_bounds_are_the_configs():
    algorithm = Algorithm(clip_eps=0.1, clip_eps_high=0.28, kl_coef=0.05)
    assert formulas.loss(algorithm)[0] == "loss = −min(ρ·A, clip(ρ, 1 − 0.1, 1 + 0.28)·A) + 0.05·KL(π, π_start)"


def test_json_has_the_stable_keys_and_every_config_key_with_its_source(folder, capsys):
    found = document(folder, capsys, "--seed", "7")
    assert list(found) == ["kind", "config", "sources", "derived", "cautions", "problems", "runs"]
    assert found["kind"] == "run"
    assert {f"{s}.{k}" for s, keys in found["config"].items() for k in keys} == set(KEYS)
    assert set(found["sources"]["keys"]) == set(KEYS)
    assert found["sources"]["files"] == [str(folder / "mini.toml")]
    assert found["sources"]["keys"]["training.max_steps"]["line"] == 5
    assert found["config"]["training"]["seed"] == 7
    assert found["runs"][0]["seed"] == 7
    assert found["runs"][0]["steps"] == 20
    assert found["runs"][0]["directory"].startswith("outputs/mini/")


def test_the_run_directory_is_the_configs_log_dir(folder, capsys):
    assert document(folder, capsys, "--log-dir", "logs/a")["runs"][0]["directory"] == "logs/a"


def test_passwords_are_masked_in_text_and_json(folder, capsys):
    flags = ["--tracking-uri", "postgresql://me:hunter2@db/runs"]
    for out in (explained(folder, capsys, *flags), explained(folder, capsys, "--json", *flags)):
        assert "hunter2" not in out
        assert "@db/runs" in out


def test_a_model_that_is_not_here_has_an_unknown_size(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder))
    assert "unknown: not cached" in explained(folder, capsys, "--model", "someone/something")
    derived = document(folder, capsys, "--model", "someone/something")["derived"]
    assert derived["model"]["parameters"] is None


def test_a_plugin_baseline_is_named_not_imported(folder, capsys):
    (folder / "mine.py").write_text("raise SystemExit('imported')\n")
    assert "A = mine:credit(rewards, groups)" in explained(folder, capsys, "--advantage-mode", "mine:credit")


def test_without_a_config_retrain_toml_is_meant(folder):
    (folder / "retrain.toml").write_text(MINI)
    assert split_config([]) == (Path("retrain.toml"), [])
    assert split_config(["training.lr=1"]) == (Path("retrain.toml"), ["training.lr=1"])
    assert split_config(["--lr", "1"]) == (Path("retrain.toml"), ["--lr", "1"])
    assert split_config(["other.toml", "--lr", "1"]) == (Path("other.toml"), ["--lr", "1"])
    (folder / "retrain.toml").unlink()
    with pytest.raises(ConfigError, match="no config was given"):
        split_config(["--lr", "1"])


def test_derived_numbers_are_json_whatever_is_added_to_them(folder, capsys):
    from retrain.cli.derived import Derived

    names = {field.name for field in dataclasses.fields(Derived)}
    assert names <= set(document(folder, capsys)["derived"])


def test_memory_is_shown_by_phase_and_given_in_json(folder, capsys):
    text = explained(folder, capsys, "--devices", "cpu")
    table = text[text.index("Memory on the CPU in float32") :].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["load", "generate", "train"]
    memory = document(folder, capsys, "--devices", "cpu")["derived"]["memory"]
    assert [phase["name"] for phase in memory["phases"]] == ["load", "generate", "train"]
    assert memory["peak_bytes"] == max(phase["bytes"] for phase in memory["phases"])
    for phase in memory["phases"]:
        assert phase["bytes"] == sum(part["bytes"] for part in phase["components"])


def test_memory_of_a_model_that_is_not_here_is_unknown(folder, capsys):
    text = MINI.replace("builtin:tiny", "nobody/nothing-at-all")
    assert "Memory:     unknown: not cached" in explained(folder, capsys, text=text)
    assert document(folder, capsys, text=text)["derived"]["memory"]["phases"] == []


def test_an_adapter_to_start_from_shows_its_own_shape(folder, capsys):
    """The config's rank stays what was written, 32 by default; what is trained is the adapter's."""
    made = folder / "start"
    made.mkdir()
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}
    (made / "adapter_config.json").write_text(json.dumps(facts))
    (made / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert "Adapter:    start: rank 4, alpha 8, q_proj,v_proj" in explained(folder, capsys, "--model-adapter", "start")
    found = document(folder, capsys, "--model-adapter", "start")["derived"]["adapter"]
    assert found == {"folder": "start", "rank": 4, "alpha": 8.0, "target_modules": "q_proj,v_proj"}
    assert document(folder, capsys)["derived"]["adapter"] is None


# --- the sentence ---------------------------------------------------------------------------------------------------


def test_the_disk_is_completions_checkpoints_and_adapters(folder, capsys):
    """A checkpoint holds the adapter in float32 and two moments; one more while it is written, one more of the best."""
    derived = document(folder, capsys, "--devices", "cpu", "--keep-checkpoints", "3")["derived"]
    adapter = 4 * derived["model"]["trainable"]
    assert derived["checkpoint_bytes_at_most"] == (3 + 1 + 1) * 3 * adapter
    assert derived["adapter_bytes_at_most"] == 2 * adapter
    total = derived["rollout_bytes_at_most"] + derived["checkpoint_bytes_at_most"] + derived["adapter_bytes_at_most"]
    assert derived["disk_bytes_at_most"] == total
    assert f"takes at most about {total / 1e6:.1f} MB of disk" in derived["sentence"]
    without = document(folder, capsys, "--eval-every", "0", "--adapter-path", "a")["derived"]
    assert without["checkpoint_bytes_at_most"] == (2 + 1) * 3 * adapter
    assert without["adapter_bytes_at_most"] == 2 * adapter


def test_of_a_model_that_is_not_here_only_the_completions_can_be_counted(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder))
    derived = document(folder, capsys, "--model", "someone/something")["derived"]
    assert derived["disk_bytes_at_most"] is None
    assert "Completions take at most about" in derived["sentence"]


# --- which config is meant ------------------------------------------------------------------------------------------


def a_run(folder, name="outputs/mini/2025-01-01", steps=33):
    place = folder / name
    place.mkdir(parents=True)
    (place / "config.toml").write_text(MINI.replace("max_steps = 20", f"max_steps = {steps}"))
    RunRecord(name="mini", state="done", seed=1, max_steps=steps, started=0.0).write(place)
    return place


def test_a_run_is_named_as_everywhere_and_means_its_config(folder, capsys):
    a_run(folder)
    for reference in ("mini", "latest", "outputs/mini/2025-01-01"):
        assert main(["explain", reference]) == 0
        assert "33 optimiser steps" in " ".join(capsys.readouterr().out.split())


def test_what_is_neither_a_file_nor_a_run_is_said_to_be_neither(folder, capsys):
    a_run(folder)
    (folder / "abl.toml").write_text(MINI)
    for given, expected in (("abl", '"abl.toml"'), ("abk.toml", "abl.toml"), ("mnii", 'did you mean "mini"?')):
        assert main(["explain", given]) == 2
        assert expected in capsys.readouterr().err


# --- what differs ---------------------------------------------------------------------------------------------------


def differing(folder, capsys, *arguments, other=MINI):
    (folder / "other.toml").write_text(other)
    found = document(folder, capsys, "--diff", "other.toml", *arguments)
    assert (found["kind"], found["here"], found["there"]) == ("diff", "mini.toml", "other.toml")
    return {entry.pop("key"): entry for entry in found["diff"]}


def test_equal_configs_are_said_to_be_equal_however_they_are_written(folder, capsys):
    assert differing(folder, capsys, other=f"{MINI}[optimizer]\nbeta1 = 0.9\n") == {}
    (folder / "other.toml").write_text(MINI)
    assert "are the same config" in explained(folder, capsys, "--diff", "other.toml")


def test_each_differing_key_has_both_values_and_both_places(folder, capsys):
    found = differing(folder, capsys, "--lr", "1e-5", other=MINI.replace("batch_size = 2", "batch_size = 4"))
    assert set(found) == {"training.lr", "training.batch_size"}
    rate = found["training.lr"]
    assert (rate["here"], rate["there"]) == (1e-5, 4e-5)
    assert rate["here_source"] == {"kind": "command line", "file": "", "line": 0, "text": "--lr 1e-5"}
    assert (rate["there_source"]["file"], rate["there_source"]["line"]) == ("other.toml", 9)
    text = explained(folder, capsys, "--diff", "other.toml", "--lr", "1e-5")
    assert "differ in 2 keys" in text
    assert "here   1e-05  (command line: --lr 1e-5)" in text
    assert "there  4e-05  (other.toml:9)" in text


def test_a_run_is_compared_by_the_config_that_it_has(folder, capsys):
    a_run(folder)
    found = document(folder, capsys, "--diff", "mini")["diff"]
    assert [(entry["key"], entry["here"], entry["there"]) for entry in found] == [("training.max_steps", 20, 33)]


def test_of_a_campaign_its_own_keys_are_compared_too(folder, capsys):
    campaign = f"{MINI}[campaign]\nseeds = [1, 2]\n"
    alone = differing(folder, capsys, other=campaign)
    assert set(alone) == {"campaign.seeds"}
    assert (alone["campaign.seeds"]["here"], alone["campaign.seeds"]["here_source"]) == (None, None)
    assert alone["campaign.seeds"]["there"] == [1, 2]
    (folder / "both.toml").write_text(f"{campaign}max_workers = 2\n")
    found = document(folder, capsys, "--diff", "both.toml", text=campaign)["diff"]
    assert [(entry["key"], entry["here"], entry["there"]) for entry in found] == [("campaign.max_workers", 1, 2)]


def test_a_difference_shows_no_password(folder, capsys):
    address = "postgresql://me:hunter2@db/runs"
    flags = ["--diff", "mini.toml", "--tracking-uri", address]
    shown = explained(folder, capsys, *flags)
    assert "hunter2" not in shown + explained(folder, capsys, *flags, "--json")
    assert "@db/runs" in shown


@pytest.mark.parametrize("flags", [["--diff"], ["--diff="], ["--diff", "mini.toml", "--all"], ["--diff", "no.toml"]])
def test_a_comparison_that_cannot_be_meant_is_refused(flags, folder, capsys):
    (folder / "mini.toml").write_text(MINI)
    assert main(["explain", "mini.toml", *flags]) == 2
    assert capsys.readouterr().out == ""
