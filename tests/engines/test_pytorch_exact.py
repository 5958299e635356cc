"""What the engine reports equals a plain forward pass of the same model over the same tokens."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from retrain.config.schema import Inference
from retrain.engines.pytorch import PytorchEngine
from retrain.types import Sampling
from tests.models import MAKERS, load, randomise_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from retrain.types import Completion


def prompts_of(num: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of different lengths; any tokens will do."""
    rng = random.Random(seed)
    return [[rng.randrange(3, 290) for _ in range(rng.randint(3, 20))] for _ in range(num)]


def score(model: Any, prompt: list[int], done: Completion, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a completion's log-probabilities and entropies from one forward pass, alone and without a cache."""
    ids = torch.tensor([[*prompt, *done.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
    return logp.gather(1, torch.tensor(done.token_ids)[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def gaps(policy: Any, engine: PytorchEngine, temperature: float, max_tokens: int = 24) -> torch.Tensor:
    """Return |Δ log p| and |ΔH| over all tokens of 6 prompts x 4 completions, [2, tokens]."""
    prompts = prompts_of(6)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    groups = engine.generate(prompts, group_size=4, sampling=sampling, step=0)
    found = []
    for prompt, group in zip(prompts, groups, strict=True):
        for done in group:
            logp, entropy = score(policy, prompt, done, temperature)
            assert done.entropies is not None
            ours = torch.tensor([done.logprobs, done.entropies], dtype=torch.float64)
            found.append((ours - torch.stack([logp, entropy]).double()).abs())
    return torch.cat(found, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("weights", ["shared", "shadow"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_float64_logprobs_and_entropies_equal_a_plain_forward(
    folders: dict[str, Path], name: str, attention: str, weights: str, temperature: float
):
    tokenizer, policy = load(folders[name], dtype="float64", attention=attention)
    policy.double().eval()
    engine = PytorchEngine(policy, tokenizer, Inference(weights=weights))
    assert engine.weights == weights
    assert gaps(policy, engine, temperature).max() <= 1e-12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_half_precision_is_near_a_plain_forward(folders: dict[str, Path], name: str, dtype: str):
    """As near as its 8 or 11 bits allow: the median token within a hundredth of a nat, none gross."""
    tokenizer, policy = load(folders[name], dtype=dtype)
    found = gaps(policy.eval(), PytorchEngine(policy, tokenizer, Inference(weights="shared")), 1.0)
    assert found.median() <= 1e-2
    assert found.max() <= 0.5


@pytest.mark.parametrize("weights", ["shared", "shadow"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_float32_logprobs_and_entropies_equal_a_plain_forward_to_rounding(
    folders: dict[str, Path], name: str, weights: str
):
    tokenizer, policy = load(folders[name])
    found = gaps(policy.eval(), PytorchEngine(policy, tokenizer, Inference(weights=weights)), 1.0, max_tokens=48)
    assert found.quantile(0.99) <= 2e-5
    assert found.max() <= 1e-4


def test_models_that_scale_their_logits_are_scored_with_the_scale(tmp_path: Path):
    """Granite divides its logits, Gemma scales its embeddings: the engine calls the model's whole forward."""
    import transformers

    from tests.models import SHAPE

    tokenizer, _ = load(MAKERS["llama"](tmp_path / "llama"))
    extra: dict[str, Any] = {"vocab_size": 384, "num_hidden_layers": 2, "eos_token_id": 1, **SHAPE}
    torch.manual_seed(0)
    for model in (
        transformers.GraniteForCausalLM(transformers.GraniteConfig(logits_scaling=3.0, **extra)),
        transformers.GemmaForCausalLM(transformers.GemmaConfig(head_dim=16, **extra)),
        transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=None, **extra)),
    ):
        model.double().eval()
        engine = PytorchEngine(model, tokenizer, Inference())
        assert engine.weights == "shared"
        assert gaps(model, engine, 1.0).max() <= 1e-12


def test_top_p_reports_the_full_distribution(folders: dict[str, Path]):
    tokenizer, policy = load(folders["qwen3"], dtype="float64")
    policy.double().eval()
    engine = PytorchEngine(policy, tokenizer, Inference())
    prompts = prompts_of(4)
    sampling = Sampling(max_tokens=16, top_p=0.3)
    for prompt, (done,) in zip(prompts, engine.generate(prompts, group_size=1, sampling=sampling, step=0), strict=True):
        logp, entropy = score(policy, prompt, done, 1.0)
        assert torch.allclose(logp, torch.tensor(done.logprobs, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(entropy, torch.tensor(done.entropies, dtype=torch.float64), atol=1e-12)


def test_the_engine_follows_the_adapter_after_update_weights(folders: dict[str, Path]):
    """Two changes of the adapter; after each the shadow equals the policy as it is then, and says its version."""
    tokenizer, policy = load(folders["qwen2"], dtype="float64")
    policy.double().eval()
    engine = PytorchEngine(policy, tokenizer, Inference(weights="shadow"))
    before = copy.deepcopy(policy)
    for version in (1, 2):
        randomise_adapter(policy, seed=version + 10)
        engine.update_weights(version)
        assert gaps(policy, engine, 1.0).max() <= 1e-12
        assert gaps(before, engine, 1.0).max() > 1e-3
        assert (
            engine.generate([[5, 6]], group_size=1, sampling=Sampling(max_tokens=1), step=0)[0][0].policy_version
            == version
        )


def test_dropout_and_gradient_checkpointing_do_not_reach_generation(folders: dict[str, Path]):
    """A policy in training mode samples as in evaluation mode, and is in training mode again afterwards."""
    tokenizer, policy = load(folders["qwen3"], dtype="float64")
    policy.double()
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    engine = PytorchEngine(policy, tokenizer, Inference(weights="shared"))
    policy.train()
    policy.gradient_checkpointing_enable()
    policy.get_base_model().model.layers[0].eval()  # a part that someone froze stays as it was
    training = [module.training for module in policy.modules()]
    prompts, sampling = prompts_of(3), Sampling(max_tokens=12)
    (group, *_) = engine.generate(prompts, group_size=2, sampling=sampling, step=0)
    assert [module.training for module in policy.modules()] == training
    logp, _ = score(policy.eval(), prompts[0], group[0], 1.0)
    assert torch.allclose(logp, torch.tensor(group[0].logprobs, dtype=torch.float64), atol=1e-12)
