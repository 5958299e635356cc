"""Training that starts from an adapter: what is loaded, and one clear message for everything that does not fit."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights
from transformers import AutoModelForCausalLM

from retrain import model
from retrain.engines.shadow import unmergeable
from tests.models import config_of, make_qwen2, randomise_adapter, refusal

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2(tmp_path_factory.mktemp("models") / "qwen2")


def make_adapter(folder: Path, base: Path, **settings: Any) -> Path:
    """Save an adapter with an effect, made by PEFT alone."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    lora = LoraConfig(task_type="CAUSAL_LM", **settings)
    policy = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    randomise_adapter(policy)
    policy.save_pretrained(str(folder))
    return folder


def load(base: Path, adapter: Path | str, *, lora: dict[str, Any] | None = None, **keys: Any) -> Any:
    config = config_of(base, model={"adapter": str(adapter), **keys}, lora=lora or {})
    return model.load_policy(config, CPU)


def edited(source: Path, folder: Path, **settings: Any) -> Path:
    """Copy an adapter with other settings in its adapter_config.json."""
    shutil.copytree(source, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"use_dora": True},
    ],
    ids=["plain", "rslora", "patterns", "dora"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_policy_is_the_saved_adapter_in_float32_and_all_of_it_is_trained(tmp_path, base, settings, dtype):
    folder = make_adapter(tmp_path / "adapter", base, **settings)
    policy = load(base, folder, dtype=dtype)
    saved, loaded = load_peft_weights(str(folder), device="cpu"), get_peft_model_state_dict(policy)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert len(trained) == len(saved)
    assert all(".default." in name and p.dtype == torch.float32 for name, p in trained.items())
    assert bool(unmergeable(policy)) == bool(settings.get("use_dora"))


def test_the_adapters_own_shape_wins_over_defaults_and_agrees_with_what_is_written(tmp_path, base):
    folder = make_adapter(tmp_path / "adapter", base)
    for keys, lora in (({}, {}), ({"lora_rank": 4}, {"alpha": 6.0, "target_modules": "down_proj, q_proj"})):
        own = load(base, folder, lora=lora, **keys).peft_config["default"]
        assert (own.r, own.lora_alpha, own.target_modules) == (4, 6, {"q_proj", "down_proj"})
        assert own.base_model_name_or_path == str(base.resolve())


def test_dropout_is_the_configs(tmp_path, base):
    folder = make_adapter(tmp_path / "adapter", base, lora_dropout=0.5)
    assert load(base, folder).peft_config["default"].lora_dropout == 0.0
    assert load(base, folder, lora={"dropout": 0.1}).peft_config["default"].lora_dropout == 0.1


@pytest.mark.parametrize(
    ("keys", "lora", "said"),
    [
        ({"lora_rank": 8}, {}, "model.lora_rank = 8 is not the rank of model.adapter, 4"),
        ({}, {"alpha": 16.0}, "lora.alpha = 16.0 is not the alpha of model.adapter, 6"),
        ({}, {"target_modules": "q_proj"}, 'are not the layers of model.adapter, "down_proj,q_proj"'),
        ({"lora_rank": 0}, {}, "trains every weight, and model.adapter starts from an adapter"),
    ],
)
def test_a_key_that_wants_another_shape_is_an_error_that_names_both(tmp_path, base, keys, lora, said):
    folder = make_adapter(tmp_path / "adapter", base)
    assert said in refusal(lambda: load(base, folder, lora=lora, **keys))


def test_another_base_is_a_warning_while_the_shapes_fit(tmp_path, base, caplog):
    folder = make_adapter(tmp_path / "adapter", base)
    with caplog.at_level(logging.WARNING, "retrain.model"):
        load(base, folder)
        assert not caplog.records
        load(base, edited(folder, tmp_path / "other", base_model_name_or_path="Qwen/Qwen3-8B"))
    assert "was trained on Qwen/Qwen3-8B, and is put on" in caplog.text


@pytest.mark.parametrize("shape", [{"hidden_size": 32}, {"layers": 1}, {"layers": 3}])
def test_a_base_of_another_shape_is_an_error(tmp_path, base, shape):
    other = make_qwen2(tmp_path / "model", **shape)
    message = refusal(lambda: load(base, make_adapter(tmp_path / "adapter", other)))
    assert "does not fit" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "is an adapter of the kind IA3"),
        ({"modules_to_save": ["lm_head"]}, "whole trained modules (modules_to_save)"),
        ({"trainable_token_indices": [1]}, "trained token embeddings"),
        ({"bias": "all"}, "trains biases"),
        ({"init_lora_weights": "pissa"}, 'started from "pissa", which changes the base model'),
        ({"task_type": "SEQ_CLS"}, "was made for the task SEQ_CLS"),
        ({"r": None}, "cannot be read"),
    ],
)
def test_what_is_more_than_low_rank_is_refused_by_name(tmp_path, base, settings, said):
    folder = edited(make_adapter(tmp_path / "adapter", base), tmp_path / "edited", **settings)
    assert said in refusal(lambda: load(base, folder))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_the_head_or_the_embedding_is_refused(tmp_path, base, target):
    """TRL's fused head reads the weight of the head and nothing that was put around it."""
    folder = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj", target])
    assert f"has a part on {'lm_head' if target == 'lm_head' else 'model.embed_tokens'}" in refusal(
        lambda: load(base, folder)
    )


def test_a_folder_that_is_no_adapter_says_what_would_be(tmp_path, base):
    made = make_adapter(tmp_path / "run" / "adapter", base)
    (tmp_path / "run" / "run.json").write_text("{}")
    assert f'adapter = "{made}"' in refusal(lambda: load(base, tmp_path / "run"))
    assert "name it as model.model" in refusal(lambda: load(base, base))
    assert "has no adapter_config.json" in refusal(lambda: load(base, tmp_path))
    (made / "adapter_model.safetensors").unlink()
    assert "has no weights" in refusal(lambda: load(base, made))
    assert "is not a folder" in refusal(lambda: load(base, tmp_path / "nowhere"))
