"""Parameter counts from file headers, against PyTorch's and PEFT's own."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from retrain import tiny
from retrain.cli.model_size import local_folder, measure
from retrain.config.schema import RunConfig


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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    size = measure(config(model=str(tmp_path)))
    assert (size.architecture, size.parameters) == ("llama", None)
    assert size.note.startswith("unknown")


def test_damaged_files_have_an_unknown_size(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 8)
    assert measure(config(model=str(tmp_path))).note.startswith("unknown")
