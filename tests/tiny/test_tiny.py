"""The shipped model: small, loadable by anyone, right about one time in four."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from retrain import tiny
from retrain.config.schema import Data, RunConfig
from retrain.data import load
from retrain.rewards.boxed import last_boxed

MADE = json.loads((tiny.path() / "made.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny.path())


@pytest.fixture(scope="module")
def sampled(tokenizer):
    """Two answers at temperature 1 to each of 128 problems, by transformers: (ids, text, reference)."""
    tasks = load(RunConfig(data=Data(source="arithmetic")), places=[]).tasks[:128]
    prompts = [
        tokenizer.apply_chat_template(list(task.prompt), add_generation_prompt=True, return_dict=False)
        for task in tasks
        for _ in range(2)
    ]
    model = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype="float32")
    torch.manual_seed(1)
    ids = torch.tensor(prompts)
    ids = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=48)
    new = ids[:, len(prompts[0]) :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    return [(row, text, tasks[i // 2].answer) for i, (row, text) in enumerate(zip(new, texts, strict=True))]


def test_it_is_right_about_one_time_in_four(sampled):
    right = sum(last_boxed(text) == answer for _, text, answer in sampled) / len(sampled)
    assert 0.15 <= right <= 0.4


def test_a_careful_answer_is_nearly_always_right_and_about_a_quarter_are_careful(sampled):
    """This is what makes it learn: the better style is there, it only has to be chosen more often."""
    careful = [last_boxed(text) == answer for _, text, answer in sampled if "=" in text]
    assert 0.15 <= len(careful) / len(sampled) <= 0.35
    assert sum(careful) / len(careful) >= 0.8


def test_every_answer_has_a_box_and_ends_by_itself(sampled, tokenizer):
    assert all(last_boxed(text) is not None for _, text, _ in sampled)
    assert all(tokenizer.eos_token_id in row.tolist() for row, *_ in sampled)


def test_the_folder_is_at_most_two_megabytes_and_readable_by_everybody():
    files = list(tiny.path().iterdir())
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in files)


def test_the_weights_are_those_that_the_script_made_and_measured():
    assert hashlib.sha256((tiny.path() / "model.safetensors").read_bytes()).hexdigest() == MADE["sha256"]
    assert 0.2 <= MADE["accuracy"] <= 0.3


def test_it_is_a_plain_qwen3_without_sampling_habits_of_its_own():
    config = json.loads((tiny.path() / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["tie_word_embeddings"]
    assert config["vocab_size"] == MADE["vocabulary"]
    habits = {"temperature", "top_k", "top_p", "do_sample"}
    assert not habits & set(json.loads((tiny.path() / "generation_config.json").read_text()))


@settings(deadline=None)
@given(st.text())
def test_every_text_round_trips_through_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_template_puts_every_role_between_its_marks(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n"
    assert text == expected


def test_asking_for_its_path_imports_nothing_heavy():
    code = (
        "import sys; from retrain import tiny; tiny.path(); sys.exit(bool({'torch', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
