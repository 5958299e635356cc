"""Small model folders made on the spot: other architectures and other tokenizers than those of ``builtin:tiny``.

    llama   Llama, tied head, leading-space tokens, a beginning-of-text token, no padding token, no chat template
    qwen2   Qwen2, own head, biases on q, k and v, a chat template, padding and end of text are one token
    qwen3   Qwen3, tied head, norms on q and k, a chat template, a padding token of its own

Weights are random: the folders answer nothing right, but load, sample and train like any other.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from retrain import model
from retrain.config.schema import RunConfig
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,  # wide, so that the random model has preferences and mistakes show
}


def corpus(lines: int = 400) -> list[str]:
    """Return sentences with names, numbers, formulas and a little of other scripts."""
    rng = random.Random(0)
    names = ["Ada", "Björn", "Chloé", "Dmitri", "Emre", "福田"]
    things = ["apples", "ribbons", "kilometres", "euros", "naïve guesses"]
    form = "{} has {} {} and gives {} away. The answer is \\boxed{{{}}}."
    return [
        form.format(rng.choice(names), a := rng.randint(2, 99), rng.choice(things), b := rng.randint(1, 9), a - b)
        for _ in range(lines)
    ]


def _train_bpe(vocab_size: int, special: list[str], *, leading_space: bool) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=leading_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(), trainer)
    return core


def _save(path: Path, weights: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    weights.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_llama(path: Path, *, layers: int = 2, seed: int = 0, **config: Any) -> Path:
    """Make a base model: no chat template; its tokenizer begins texts with <s> and words with their space."""
    core = _train_bpe(384, ["<s>", "</s>"], leading_space=True)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    shape = {**SHAPE, "num_hidden_layers": layers, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(seed)
    return _save(path, LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **{**shape, **config})), tokenizer)


def make_qwen2(path: Path, *, layers: int = 2, seed: int = 0, **config: Any) -> Path:
    """Make a chat model whose padding token is also the one that ends a completion."""
    core = _train_bpe(320, ["<|im_end|>", "<|im_start|>"], leading_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=TEMPLATE
    )
    shape = {**SHAPE, "num_hidden_layers": layers, "tie_word_embeddings": False, "eos_token_id": 0, "pad_token_id": 0}
    shape["bos_token_id"] = None
    torch.manual_seed(seed)
    spare = 16  # rows of the embedding that no token uses, as real models have
    weights = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer) + spare, **{**shape, **config}))
    for name, parameter in weights.named_parameters():
        if name.endswith("_proj.bias"):
            torch.nn.init.normal_(parameter, std=0.1)  # transformers starts biases at zero
    return _save(path, weights, tokenizer)


def make_qwen3(path: Path, *, layers: int = 3, seed: int = 0, **config: Any) -> Path:
    """Make a chat model with a padding token of its own and two tokens that end a completion."""
    core = _train_bpe(300, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], leading_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    shape = {**SHAPE, "num_hidden_layers": layers, "tie_word_embeddings": True, "head_dim": 24}
    shape |= {"bos_token_id": None, "eos_token_id": [2, 0], "pad_token_id": 0}
    torch.manual_seed(seed)
    return _save(path, Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **{**shape, **config})), tokenizer)


MAKERS = {"llama": make_llama, "qwen2": make_qwen2, "qwen3": make_qwen3}


def config_of(name: str | Path, **sections: dict[str, Any]) -> RunConfig:
    """Return the default config with this model, and some keys of some sections changed."""
    config = RunConfig()
    config.model.model = str(name)
    for section, values in sections.items():
        for key, value in values.items():
            setattr(getattr(config, section), key, value)
    return config


def refusal(function: Callable[[], object]) -> str:
    """Return the one message that a user gets from a call that must not work."""
    with pytest.raises(ConfigError) as caught:
        function()
    assert len(caught.value.problems) == 1
    return str(caught.value)


def load(
    folder: Path | str,
    *,
    lora_rank: int = 8,
    dtype: str = "float32",
    attention: str = "sdpa",
    target_modules: str = "all-linear",
) -> tuple[model.ChatTokenizer, Any]:
    """Load a folder as a run does, on the CPU, with an adapter that has an effect: a fresh one starts at zero."""
    options = {"lora_rank": lora_rank, "dtype": dtype, "attn_implementation": attention}
    config = config_of(folder, model=options, lora={"target_modules": target_modules})
    policy: Any = model.load_policy(config, torch.device("cpu"))
    randomise_adapter(policy)
    return model.load_tokenizer(config), policy


@torch.no_grad()
def randomise_adapter(policy: torch.nn.Module, seed: int = 1) -> None:
    """Overwrite every B with small random numbers, in place as an optimiser would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
