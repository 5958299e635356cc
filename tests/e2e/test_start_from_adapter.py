"""A run that starts from the adapter of another."""

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from retrain import data, run, tiny
from retrain.config import compose
from retrain.errors import ConfigError
from retrain.model import load_tokenizer
from retrain.store import read_metrics
from tests.e2e.conftest import outcome
from tests.e2e.test_repeat_and_resume import stopped_after


@pytest.fixture
def first(train):
    return train("--max-steps", "3")


def weights(directory):
    return load_file(directory / "adapter" / "adapter_model.safetensors")


@torch.no_grad()
def scored(model, row):
    """Log-probabilities of a completion's tokens by a plain forward pass."""
    ids = torch.tensor([row["all_ids"]])
    logp = model(input_ids=ids).logits[0].log_softmax(-1)
    start = len(row["all_ids"]) - len(row["token_ids"])
    return torch.stack([logp[start + i - 1, token] for i, token in enumerate(row["token_ids"])])


def test_the_first_completions_are_of_the_adapters_policy(train, first):
    """Held against PEFT's own loading of the saved folder; the base alone gives other probabilities."""
    second = train("--model-adapter", str(first / "adapter"), "--max-steps", "1")
    config = compose(second / "config.toml").config
    tokenizer, tasks = load_tokenizer(config), {task.id: task for task in data.load(config, ()).tasks}
    rows = pq.read_table(second / "rollouts" / "step-1.parquet").to_pylist()
    for row in rows:
        row["all_ids"] = tokenizer.encode_prompt(tasks[row["task_id"]].prompt) + row["token_ids"]
    base = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype=torch.float32)
    sampled = [torch.tensor(row["logprobs"]) for row in rows]
    apart = max((scored(base, row) - logp).abs().max() for row, logp in zip(rows, sampled, strict=True))
    policy = PeftModel.from_pretrained(base, str(first / "adapter"))
    together = max((scored(policy, row) - logp).abs().max() for row, logp in zip(rows, sampled, strict=True))
    assert together < 1e-4
    assert apart > 0.01
    line = read_metrics(second)[0]
    assert line["ratio/p99"] < 2e-5
    assert line["ratio/outside"] == 0


def test_without_a_learning_rate_the_adapter_stays_as_it_was(train, first):
    second = train(
        "--model-adapter", str(first / "adapter"), "--max-steps", "2", "--lr", "0", "--health-max-unchanged-steps", "99"
    )
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = train("--model-adapter", str(first / "adapter"), "--max-steps", "1")
    assert any(not torch.equal(before[name], value) for name, value in weights(trained).items())


def test_the_adapters_rank_is_taken_where_the_config_names_none(train, first):
    """TINY says lora_rank = 8; 32 is the default, and gives way."""
    second = train("--model-adapter", str(first / "adapter"), "--max-steps", "1", "--lora-rank", "32")
    assert {name: value.shape for name, value in weights(second).items()} == {
        name: value.shape for name, value in weights(first).items()
    }


def test_the_kl_penalty_is_towards_the_adapter_that_training_started_from(train, first):
    """At the first step the policy is its own reference, so that KL is 0; the base, had it been taken, is away."""
    lines = read_metrics(train("--model-adapter", str(first / "adapter"), "--kl-coef", "0.05", "--max-steps", "3"))
    assert abs(lines[0]["policy/kl"]) < 1e-9
    assert lines[-1]["policy/kl"] > 1e-6


def test_with_a_kl_penalty_it_resumes_exactly(train, first, tmp_path):
    whole = train("--model-adapter", str(first / "adapter"), "--kl-coef", "0.05", "--max-steps", "3")
    part = stopped_after(whole, 1, tmp_path / "part")
    assert outcome(run.resume(part).dir) == outcome(whole)


@pytest.mark.parametrize(
    ("adapter", "flags", "said"),
    [
        ("{run}", (), 'adapter = "{run}/adapter"'),
        ("{run}/adapter", ("--lora-rank", "16"), "model.lora_rank = 16 is not the rank of model.adapter, 8"),
        ("{run}/adapter", ("--lora-rank", "0", "--lr", "1e-6"), "model.lora_rank = 0 trains every weight"),
        ("{run}/adaptor", (), "is a folder that does not exist"),
        ("no body/at all", (), "is neither a folder nor a hub id"),
    ],
)
def test_what_cannot_be_started_from_is_found_before_anything_is_loaded(first, adapter, flags, said):
    with pytest.raises(ConfigError) as caught:
        compose(first.parents[2] / "tiny.toml", ["--model-adapter", adapter.format(run=first), *flags])
    assert said.format(run=first.resolve()) in str(caught.value) or said.format(run=first) in str(caught.value)
