"""The merged copy: what it computes, what it shares, what it never writes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from retrain.config.schema import Inference
from retrain.engines.pytorch import PytorchEngine
from retrain.engines.shadow import MergedShadow, shadow_bytes, unmergeable
from retrain.errors import ConfigError
from tests.models import MAKERS, load, randomise_adapter

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def with_lora(folder: Path, **options: Any) -> Any:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, **{"target_modules": "all-linear", **options}))
    randomise_adapter(policy)
    return policy.double().eval()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}], ids=str)
@pytest.mark.parametrize("name", list(MAKERS))
def test_a_shadow_computes_what_the_policy_does(folders: dict[str, Path], name: str, options: dict[str, Any]):
    """Also with rslora's scale, and with only some layers adapted."""
    policy = with_lora(folders[name], **options)
    assert torch.allclose(logits(MergedShadow(policy).model), logits(policy), atol=1e-12)


def test_a_shadow_shares_every_tensor_but_the_adapted_weights(folders: dict[str, Path]):
    _, policy = load(folders["qwen2"])
    base, shadow = policy.get_base_model(), MergedShadow(policy).model
    theirs = {p.data_ptr() for p in base.parameters()} | {b.data_ptr() for b in base.buffers()}
    own = {name: p for name, p in shadow.named_parameters() if p.data_ptr() not in theirs}
    assert {name.split(".")[-2] for name in own} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert all(name.endswith(".weight") for name in own)  # biases are the base's own
    assert sum(p.numel() * p.element_size() for p in own.values()) == shadow_bytes(policy)
    assert not any("lora" in name for name, _ in shadow.named_modules())
    assert not any(p.requires_grad for p in own.values())


def test_refreshing_never_writes_the_policy(folders: dict[str, Path]):
    """A hundred refreshes under a changing adapter leave every frozen weight as it was, to the bit."""
    _, policy = load(folders["llama"], dtype="bfloat16")
    frozen = {name: p.clone() for name, p in policy.named_parameters() if not p.requires_grad}
    shadow = MergedShadow(policy)
    for seed in range(100):
        randomise_adapter(policy, seed)
        shadow.refresh()
    now = dict(policy.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())


def test_a_float32_adapter_on_a_bfloat16_base_is_rounded_once(folders: dict[str, Path]):
    _, policy = load(folders["llama"], dtype="bfloat16")
    shadow = MergedShadow(policy)
    layer = policy.get_base_model().model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.dtype, layer.base_layer.weight.dtype) == (torch.float32, torch.bfloat16)
    exact = layer.base_layer.weight.double() + layer.scaling["default"] * b.double() @ a.double()
    merged = shadow.model.model.layers[0].mlp.up_proj.weight
    half_a_step = exact.abs() * 2.0**-8  # bfloat16 keeps 8 bits, so rounding once moves at most half of the last
    assert ((merged.double() - exact).abs() <= half_a_step * (1 + 1e-4)).all()


def test_what_training_hangs_on_the_policy_stays_behind(folders: dict[str, Path]):
    """TRL replaces the base model's forward in place, and others add hooks: the shadow runs the class's own."""
    _, policy = load(folders["qwen3"])
    expected = logits(policy)
    base = policy.get_base_model()
    base.forward = lambda *args, **kwargs: pytest.fail("the replaced forward ran")
    base.get_input_embeddings().register_forward_hook(lambda *args: pytest.fail("a hook ran"))
    assert torch.allclose(logits(MergedShadow(policy).model), expected, atol=1e-5)


def test_a_shadow_made_before_the_forward_is_replaced_is_not_affected(folders: dict[str, Path]):
    _, policy = load(folders["qwen3"])
    shadow = MergedShadow(policy)
    policy.get_base_model().forward = lambda *args, **kwargs: pytest.fail("the replaced forward ran")
    logits(shadow.model)


def test_a_fused_lm_head_changes_no_completion(folders: dict[str, Path]):
    """The real patch of the pinned TRL, on both kinds of weights."""
    from trl.trainer.utils import add_fused_lm_head

    from retrain.types import Sampling

    tokenizer, policy = load(folders["qwen3"])
    plain = copy.deepcopy(policy)
    add_fused_lm_head(policy.get_base_model())
    for weights in ("shared", "shadow"):
        done = [
            PytorchEngine(model, tokenizer, Inference(weights=weights)).generate(
                [[5, 6, 7]], group_size=3, sampling=Sampling(max_tokens=8), step=0
            )
            for model in (plain, policy)
        ]
        assert done[0] == done[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "more than scale"),
        ({"target_modules": ["embed_tokens"]}, "not a plain linear layer"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, ""),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_said_and_never_guessed(
    folders: dict[str, Path], options: dict[str, Any], reason: str
):
    """ "auto" falls back to the training weights and tells why; "shadow" is an error."""
    tokenizer, _ = load(folders["qwen2"])
    policy = with_lora(folders["qwen2"], **options)
    assert reason in unmergeable(policy)
    if reason:
        engine = PytorchEngine(policy, tokenizer, Inference(weights="auto"))
        assert engine.weights == "shared"
        assert reason in engine.weights_reason
        with pytest.raises(ConfigError, match="no merged copy"):
            PytorchEngine(policy, tokenizer, Inference(weights="shadow"))


def test_a_policy_without_an_adapter_is_sampled_as_it_is(folders: dict[str, Path]):
    tokenizer, policy = load(folders["llama"], lora_rank=0)
    assert PytorchEngine(policy, tokenizer, Inference()).weights == "shared"
    with pytest.raises(ConfigError, match="no LoRA adapter"):
        PytorchEngine(policy, tokenizer, Inference(weights="shadow"))


def test_auto_takes_a_shadow_only_where_memory_allows(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Weights, adapter and shadow together may fill half of the device."""
    tokenizer, policy = load(folders["llama"])
    whole = sum(p.numel() * p.element_size() for p in policy.parameters()) + shadow_bytes(policy)
    for memory, expected in ((2 * whole, "shadow"), (2 * whole - 2, "shared")):
        monkeypatch.setattr("retrain.engines.pytorch.memory_bytes", lambda device, memory=memory: memory)
        engine = PytorchEngine(policy, tokenizer, Inference())
        assert engine.weights == expected
        assert "MiB" in engine.weights_reason
