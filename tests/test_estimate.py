"""The memory estimate, held to what really is allocated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

from retrain import estimate, model, tiny
from retrain.engines import kv_cache
from retrain.engines.pytorch import PytorchEngine
from retrain.engines.shadow import shadow_bytes, tensor_bytes
from retrain.estimate import Component, Memory, Phase
from retrain.layout import Layout
from retrain.types import Sampling
from tests import memory
from tests.models import MAKERS, config_of
from tests.test_adapter import make_adapter

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
ROWS, PROMPT, COMPLETION = 4, 24, 40
WIDE = {"hidden_size": 64, "intermediate_size": 16_384, "layers": 2}  # where a layer outweighs the tiles of the head
MIDDLE = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "layers": 4}


def parts(config: Any, phase: str, **arguments: Any) -> dict[str, int]:
    (found,) = [p for p in estimate.memory(config, **arguments).phases if p.name == phase]
    assert found.bytes == sum(c.bytes for c in found.components)
    return {c.name: c.bytes for c in found.components}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {name: make(root / name, **MIDDLE) for name, make in MAKERS.items()}
    return {**made, "wide": MAKERS["llama"](root / "wide", **WIDE)}


# --- exactly ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_what_is_held_is_what_the_loaded_policy_holds(folders, kind, dtype):
    config = config_of(folders[kind], model={"dtype": dtype, "lora_rank": 4}, inference={"weights": "shadow"})
    policy = model.load_policy(config, CPU)
    trained = tensor_bytes(p for p in policy.parameters() if p.requires_grad)
    load, train = parts(config, "load"), parts(config, "train")
    assert load["adapter"] == trained
    assert load["weights"] == tensor_bytes(policy.parameters()) - trained
    assert load["merged copy"] == shadow_bytes(policy)
    assert (train["gradients"], train["optimiser"]) == (trained, 2 * trained)


def test_the_optimisers_state_is_two_more_copies(folders):
    policy = model.load_policy(config_of(folders["qwen2"], model={"lora_rank": 0}), CPU)
    optimizer = torch.optim.AdamW(policy.parameters())
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = tensor_bytes(t for s in optimizer.state.values() for name, t in s.items() if name != "step")
    assert parts(config_of(folders["qwen2"], model={"lora_rank": 0}), "train")["optimiser"] == state


@pytest.mark.parametrize("kind", MAKERS)
def test_keys_and_values_are_those_of_the_engines_cache(folders, kind, monkeypatch):
    caches = []

    class Kept(kv_cache.KvCache):
        def __init__(self, **arguments: int) -> None:
            super().__init__(**arguments)
            caches.append(self)

    monkeypatch.setattr("retrain.engines.pytorch.KvCache", Kept)
    config = config_of(folders[kind], training={"batch_size": 2, "group_size": 3, "max_tokens": 20})
    policy, tokenizer = model.load_policy(config, CPU), model.load_tokenizer(config)
    prompt = [5, 6, 7, 8]
    engine = PytorchEngine(policy, tokenizer, config.inference)
    sampling = Sampling(max_tokens=20, temperature=1.0, top_p=1.0, stop=(), seed=0)
    engine.generate([prompt] * 2, group_size=3, sampling=sampling, step=0)
    made = caches[-1]
    real = tensor_bytes([*made._keys.values(), *made._values.values()])
    assert parts(config, "generate", prompt_tokens=len(prompt))["keys and values"] == real


def test_the_kl_reference_is_a_model_or_an_adapter(folders):
    for rank, copied in ((0, "weights"), (4, "adapter")):
        config = config_of(folders["llama"], model={"lora_rank": rank}, algorithm={"kl_coef": 0.1})
        held = parts(config, "load")
        assert held["KL reference"] == held[copied]
        config.algorithm.kl_coef = 0.0
        assert "KL reference" not in parts(config, "load")


def test_the_tiles_of_the_head_are_trls():
    assert (estimate.HEAD_TOKENS, estimate.HEAD_COLUMNS) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(("given", "max_tokens"), [(0, 100), (0, 40_000), (7, 100)])
def test_the_micro_batch_is_that_of_the_layout(folders, on_gpu, given, max_tokens):
    config = config_of(
        folders["llama"], training={"micro_batch_size": given, "max_tokens": max_tokens, "batch_size": 99}
    )
    chosen = Layout.chosen(micro_batch_size=given, max_tokens=max_tokens, on_gpu=on_gpu, skip=True)
    assert estimate.memory(config, gpu=on_gpu).micro_batch_size == chosen.micro_batch_size


# --- about ------------------------------------------------------------------------------------------------------------

CASES = [
    ("llama", "float32", 8, "off"),
    ("llama", "bfloat16", 0, "off"),
    ("qwen2", "bfloat16", 8, "off"),
    ("qwen2", "float32", 0, "on"),
    ("qwen3", "float32", 0, "off"),
    ("qwen3", "bfloat16", 8, "on"),
    ("wide", "float32", 8, "on"),
    ("wide", "bfloat16", 8, "on"),
    ("wide", "bfloat16", 8, "off"),
]


@pytest.mark.parametrize(("kind", "dtype", "rank", "checkpointing"), CASES)
def test_a_training_step_takes_about_what_is_estimated(folders, tmp_path, kind, dtype, rank, checkpointing):
    config = memory.training_config(
        folders[kind],
        rows=ROWS,
        completion=COMPLETION,
        dtype=dtype,
        lora_rank=rank,
        gradient_checkpointing=checkpointing,
    )
    trainer, policy = memory.trl_loss(config, tmp_path)
    inputs = memory.batch(ROWS, PROMPT, COMPLETION)
    expected = parts(config, "train", prompt_tokens=PROMPT)
    assert expected["activations"] == pytest.approx(memory.saved_bytes(trainer, policy, inputs), rel=0.05)
    assert ("backward pass" in expected) == (kind == "wide")
    meanwhile = expected.get("logits", 0) + expected.get("backward pass", 0)
    assert expected["activations"] + meanwhile == pytest.approx(memory.peak_bytes(trainer, policy, inputs), rel=0.15)


def test_dropout_keeps_its_masks(folders, tmp_path):
    config = memory.training_config(folders["qwen2"], rows=ROWS, completion=COMPLETION, dtype="bfloat16", lora_rank=8)
    config.lora.dropout = 0.1
    trainer, policy = memory.trl_loss(config, tmp_path)
    saved = memory.saved_bytes(trainer, policy, memory.batch(ROWS, PROMPT, COMPLETION))
    assert parts(config, "train", prompt_tokens=PROMPT)["activations"] == pytest.approx(saved, rel=0.05)


# --- what it decides --------------------------------------------------------------------------------------------------


def test_auto_weights_are_copied_only_where_the_device_has_room(folders):
    config = config_of(folders["llama"], model={"lora_rank": 4})
    held = parts(config, "load")
    assert "merged copy" in held
    need = sum(held.values())
    assert "merged copy" in parts(config, "load", device_bytes=2 * need)
    assert "merged copy" not in parts(config, "load", device_bytes=2 * need - 2)


def test_an_adapter_that_cannot_be_merged_has_no_copy(folders, tmp_path):
    dora = make_adapter(tmp_path / "dora", folders["qwen2"], use_dora=True)
    assert "merged copy" not in parts(config_of(folders["qwen2"], model={"adapter": str(dora)}), "load")


def test_a_gpu_takes_bfloat16_and_checkpoints(folders):
    config = config_of(folders["llama"])
    on_gpu, on_cpu = estimate.memory(config, gpu=True), estimate.memory(config, gpu=False)
    assert (on_gpu.dtype, on_cpu.dtype) == ("bfloat16", "float32")
    config.training.gradient_checkpointing = "off"
    assert (
        parts(config, "train", gpu=True)["activations"]
        > {c.name: c.bytes for c in on_gpu.phases[2].components}["activations"]
    )


@pytest.mark.parametrize(("devices", "expected"), [("cpu", False), ("gpu:1", True), ("0", True), ("cuda:0", True)])
def test_devices_name_a_gpu_or_not(devices, expected):
    assert estimate.on_gpu(devices) is expected


def test_a_model_that_is_not_here_is_unknown_and_so_is_one_of_experts(tmp_path):
    assert estimate.memory(config_of("nobody/nothing-at-all")).note == "unknown: not cached"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", "num_experts": 8}))
    assert estimate.memory(config_of(tmp_path)).note == "unknown: a mixture of experts"
    assert estimate.fits(estimate.memory(config_of(tmp_path)), 1) is None


def made_up(**sizes: int) -> Memory:
    components = tuple(
        Component(name=name, bytes=size, key=f"key.{name}", fix=f"less {name}") for name, size in sizes.items()
    )
    total = sum(sizes.values())
    phase = Phase(name="train", bytes=total, components=components)
    return Memory(
        device="gpu",
        dtype="bfloat16",
        micro_batch_size=1,
        prompt_tokens=1,
        phases=(phase,),
        peak="train",
        peak_bytes=total,
    )


def test_what_does_not_fit_names_the_largest_part_and_the_one_key_that_helps():
    gb = 2**30
    estimated = made_up(weights=50 * gb, activations=30 * gb, optimiser=5 * gb)
    assert estimate.fits(estimated, 95 * gb) is None  # 85 of 85.5 that can be used
    problem = estimate.fits(estimated, 80 * gb)
    assert problem is not None
    assert (problem.key, problem.hint) == ("key.activations", "less activations (activations: 30.0 GB)")
    assert "85.0 GB are needed to train" in problem.message
    assert "largest part is weights, 50.0 GB" in problem.message
    hopeless = estimate.fits(estimated, 40 * gb)
    assert hopeless is not None
    assert hopeless.key == "key.weights"


def test_the_tiny_model_fits_anywhere():
    assert estimate.fits(estimate.memory(config_of(tiny.NAME, training={"max_tokens": 32})), 2**30) is None
