"""Parameter counts from file headers and from config.json alone, against PyTorch's and PEFT's own."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from retrain import model, tiny
from retrain.config.schema import RunConfig
from retrain.shapes import Form, implied, local_folder, measure, read, tensor_shapes
from tests.models import MAKERS, config_of
from tests.test_adapter import make_adapter


def config(**model):
    made = RunConfig()
    for name, value in model.items():
        setattr(made.model, name, value)
    return made


@pytest.fixture(scope="module")
def reference():
    return AutoModelForCausalLM.from_pretrained(tiny.path(), dtype=torch.float32)


def test_parameters_are_those_that_pytorch_counts(reference):
    assert measure(config(model=tiny.NAME)).parameters == sum(p.numel() for p in reference.parameters())


def test_a_full_fine_tune_trains_all_of_them():
    size = measure(config(model=tiny.NAME, lora_rank=0))
    assert size.trainable == size.parameters


@pytest.mark.parametrize("target", ["all-linear", "q_proj,down_proj"])
def test_an_adapter_trains_what_peft_adds(target):
    made = config(model=tiny.NAME, lora_rank=4)
    made.lora.target_modules = target
    modules = target if target == "all-linear" else target.split(",")
    base = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype=torch.float32)
    peft = get_peft_model(base, LoraConfig(r=4, target_modules=modules))  # type: ignore[arg-type]  PreTrainedModel it is
    assert measure(made).trainable == sum(p.numel() for p in peft.parameters() if p.requires_grad)


def test_a_hub_model_is_found_in_the_cache_by_its_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--some--model"
    for commit in ("aaa", "bbb"):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb")
    assert local_folder("some/model", "") == cache / "snapshots" / "bbb"
    assert local_folder("some/model", "aaa") == cache / "snapshots" / "aaa"
    assert local_folder("some/model", "ccc") is None
    assert local_folder("other/model", "") is None


def test_a_folder_without_safetensors_has_an_unknown_size(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    size = measure(config(model=str(tmp_path)))
    assert (size.architecture, size.parameters) == ("gpt2", None)
    assert size.note.startswith("unknown")


def test_damaged_files_have_an_unknown_size(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    assert measure(config(model=str(tmp_path))).note.startswith("unknown")


VARIANTS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True, "layers": 1}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_config_json_alone_implies_every_tensor_of_the_files(tmp_path, kind, changes):
    folder = MAKERS[kind](tmp_path / "model", **changes)
    assert implied(json.loads((folder / "config.json").read_text())) == dict(tensor_shapes(folder))


def test_without_weights_on_disk_the_counts_are_those_of_the_loaded_policy(tmp_path):
    folder = MAKERS["qwen2"](tmp_path / "model")
    policy = model.load_policy(config_of(folder, model={"lora_rank": 4}), torch.device("cpu"))
    (folder / "model.safetensors").unlink()
    size = measure(config(model=str(folder), lora_rank=4))
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert size.trainable == trained
    assert size.parameters == sum(p.numel() for p in policy.parameters()) - trained


def test_an_adapter_to_start_from_is_counted_as_it_is(tmp_path):
    folder = MAKERS["qwen2"](tmp_path / "model")
    made = make_adapter(tmp_path / "adapter", folder, rank_pattern={"q_proj": 2}, use_dora=True)
    policy = model.load_policy(config_of(folder, model={"adapter": str(made)}), torch.device("cpu"))
    size = measure(config(model=str(folder), adapter=str(made)))
    assert size.trainable == sum(p.numel() for p in policy.parameters() if p.requires_grad)


def test_other_architectures_have_no_implied_shapes_and_a_mixture_of_experts_no_form():
    raw = {"model_type": "gpt2", "num_experts": 8}
    assert implied(raw) == {}
    with pytest.raises(ValueError, match="a mixture of experts"):
        Form.of(raw)
    assert read(config(model="nobody/nothing-at-all")) is None
