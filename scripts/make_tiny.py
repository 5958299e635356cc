"""Make the weights of builtin:tiny: a Qwen3 of about 300 000 weights that adds two-digit numbers in two styles.

    python scripts/make_tiny.py [OUT] [--seed 0] [--steps 500]

The warm-up first teaches *careful* answers (units, carry, tens: nearly always right), then the mixture that the model
is released with: nearly a quarter careful, the rest *hasty* (a guess, nearly always wrong). Prompts are those of
`data.source = "arithmetic"` in the model's chat template, so that a run starts where the warm-up ended. One thread,
about a minute; the same seed gives the same file on the same version of torch. `OUT/made.json` records the facts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from retrain import tiny
from retrain.config.schema import Data
from retrain.data import arithmetic
from retrain.data.rows import question
from retrain.rewards.boxed import last_boxed

PAD, START, END, BOX = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "\\boxed{"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CAREFUL_SHARE = 0.225
ROWS = 64  # answers in one step of the warm-up


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return bytes plus six added tokens: 262 entries, and every text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in (PAD, START, END)])
    core.add_tokens([AddedToken(t, normalized=False) for t in (BOX, "user", "assistant")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def build_model(tokenizer: Any, seed: int) -> Qwen3ForCausalLM:
    """Return the untrained model. A head size of 32: inference servers have no CPU kernel for smaller odd ones."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return Qwen3ForCausalLM(config).float()


def answer_of(a: int, b: int, rng: random.Random, careful: float) -> str:
    """Return a worked answer with probability `careful`, otherwise a guess that is right one time in thirteen."""
    if rng.random() < careful:
        units, carry = a % 10 + b % 10, (a % 10 + b % 10) // 10
        tens = a // 10 + b // 10 + carry
        return f"{a % 10}+{b % 10}={units} {a // 10}+{b // 10}+{carry}={tens} {BOX}{tens * 10 + units % 10}}}"
    guess = a + b + rng.choice([-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20, 0])
    return f"quick {BOX}{max(guess, 0)}}}"


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: Any) -> list[int]:
    """Encode a prompt as a run does."""
    ids: Any = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    return list(ids)


def rows_of(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, careful: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels [ROWS, T], padded on the right, where the padding is never attended to."""
    inputs, labels = [], []
    for _ in range(ROWS):
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        prompt = prompt_ids(tokenizer, question(f"{a}+{b}="))
        answer = [*tokenizer.encode(answer_of(a, b, rng, careful)), tokenizer.eos_token_id]
        inputs.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    width = max(map(len, inputs))
    ids = torch.tensor([x + [tokenizer.pad_token_id] * (width - len(x)) for x in inputs])
    return ids, torch.tensor([y + [-100] * (width - len(y)) for y in labels])


def warm_up(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> float:
    """Train on answers and return the last loss: nearly all careful, then for the last fifth the released mixture."""
    rng = random.Random(seed)  # noqa: S311  warm-up answers are no secret
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps, pct_start=0.1)
    loss = torch.tensor(float("nan"))
    for step in range(steps):
        ids, labels = rows_of(tokenizer, rng, 0.9 if step < 0.8 * steps else CAREFUL_SHARE)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


@torch.no_grad()
def sampled(model: Any, tokenizer: PreTrainedTokenizerFast, num: int, each: int) -> list[tuple[str, str, bool]]:
    """Sample `each` answers at temperature 1 to `num` tasks of the test split: (text, reference, ended by itself)."""
    torch.manual_seed(0)
    tasks = arithmetic.load(Data(source="arithmetic", split="test")).tasks[:num]
    prompts = [prompt_ids(tokenizer, task.prompt) for task in tasks for _ in range(each)]
    batch = {"input_ids": torch.tensor(prompts), "attention_mask": torch.ones(len(prompts), len(prompts[0]))}
    ids = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=48)[:, len(prompts[0]) :]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    ended = (ids == tokenizer.eos_token_id).any(dim=1).tolist()
    return [(text, tasks[i // each].answer, ended[i]) for i, text in enumerate(texts)]


def measured(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return shares over 1024 sampled answers."""
    rows = sampled(model, tokenizer, num=256, each=4)
    careful = [last_boxed(text) == answer for text, answer, _ in rows if "=" in text]
    return {
        "accuracy": sum(last_boxed(text) == answer for text, answer, _ in rows) / len(rows),
        "careful": len(careful) / len(rows),
        "accuracy_when_careful": sum(careful) / max(len(careful), 1),
        "ended": sum(end for *_, end in rows) / len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, nargs="?", default=tiny.path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args.seed)
    loss = warm_up(model, tokenizer, args.seed, args.steps)
    seconds = time.process_time() - clock
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    for file in args.out.iterdir():
        file.chmod(0o644)  # safetensors files are born private; these go into a wheel
    made = {
        "seed": args.seed,
        "steps": args.steps,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss": round(loss, 4),
        "sha256": hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest(),
        **{name: round(share, 4) for name, share in measured(model, tokenizer).items()},
    }
    (args.out / "made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
