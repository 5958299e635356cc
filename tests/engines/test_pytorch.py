"""How completions begin, end and are told apart, and that the batch they were in does not matter."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from retrain import tiny
from retrain.config.schema import Inference
from retrain.engines.kv_cache import KvCache
from retrain.engines.pytorch import PytorchEngine
from retrain.errors import ConfigError, RunError
from retrain.types import Completion, Sampling
from tests.models import load, randomise_adapter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SAMPLING = Sampling(max_tokens=40, seed=5)


@pytest.fixture(scope="module")
def sums() -> tuple[Any, Any, list[list[int]]]:
    """The shipped model, which ends its completions at different lengths, and prompts of different lengths."""
    tokenizer, policy = load(tiny.NAME)
    rng = random.Random(0)
    prompts = [f"{'what is ' * (i % 3)}{rng.randint(10, 99)}+{rng.randint(10, 99)}=" for i in range(8)]
    return tokenizer, policy, [tokenizer.encode_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]


def ids(groups: Iterable[Iterable[Completion]]) -> list[list[list[int]]]:
    return [[list(done.token_ids) for done in group] for group in groups]


def flat(groups: Iterable[Iterable[Completion]]) -> list[Completion]:
    return [done for group in groups for done in group]


@pytest.mark.parametrize("weights", ["shared", "shadow"])
def test_completions_do_not_depend_on_the_batch(sums: Any, weights: str):
    """Alone, in company, without compaction, without shared prompts, with a cache that grows: the same tokens."""
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference(weights=weights))
    together = ids(engine.generate(prompts, group_size=6, sampling=SAMPLING, step=3))
    lengths = [len(done) for group in together for done in group]
    assert len(set(lengths)) > 5  # rows do leave at different times
    variants: list[dict[str, Any]] = [{"compact_at": 0.0}, {"share_prompts": False}, {"compact_at": 1.0}]
    for options in variants:
        other = PytorchEngine(policy, tokenizer, Inference(weights=weights), **options)
        assert ids(other.generate(prompts, group_size=6, sampling=SAMPLING, step=3)) == together
    for task in (0, 5):
        alone = engine.generate(prompts[task : task + 1], group_size=6, sampling=SAMPLING, step=3, first_task=task)
        assert ids(alone) == together[task : task + 1]
    fewer = engine.generate(prompts, group_size=2, sampling=SAMPLING, step=3)
    assert ids(fewer) == [group[:2] for group in together]


def test_completions_do_not_depend_on_how_the_cache_grows(sums: Any, monkeypatch: pytest.MonkeyPatch):
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference())
    together = ids(engine.generate(prompts, group_size=4, sampling=SAMPLING, step=0))
    monkeypatch.setattr("retrain.engines.pytorch.FIRST_POSITIONS", 1)
    assert ids(engine.generate(prompts, group_size=4, sampling=SAMPLING, step=0)) == together


def test_stream_seed_step_task_and_rollout_each_change_the_completion(sums: Any):
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference())

    def first(sampling: Sampling = SAMPLING, **place: int) -> list[list[int]]:
        return ids(engine.generate(prompts[:1], group_size=4, sampling=sampling, **{"step": 0, **place}))[0]

    plain = first()
    assert plain == first()
    assert len({tuple(done) for done in plain}) > 1
    for other in (first(stream=1), first(replace(SAMPLING, seed=6)), first(step=1), first(first_task=1)):
        assert other != plain


def test_finish_reason_and_length_tell_how_a_completion_ended(sums: Any):
    """An end token is part of the completion, also when it comes at the last place."""
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference())
    done = flat(engine.generate(prompts, group_size=8, sampling=SAMPLING, step=0))
    assert {d.finish_reason for d in done} == {"stop"}
    shortest = min(len(d.token_ids) for d in done)
    limit = replace(SAMPLING, max_tokens=shortest)
    cut = flat(engine.generate(prompts, group_size=8, sampling=limit, step=0))
    assert {d.finish_reason for d in cut} == {"stop", "length"}
    for whole, part in zip(done, cut, strict=True):
        assert list(part.token_ids) == list(whole.token_ids)[:shortest]
        ended = part.token_ids[-1] in tokenizer.eos_ids
        assert part.finish_reason == ("stop" if ended else "length")
        assert not set(part.token_ids[:-1]) & tokenizer.eos_ids
        assert len(part.token_ids) == len(part.logprobs) == len(part.entropies or ())


def test_every_one_of_several_end_tokens_ends_a_completion(folders: dict[str, Path]):
    """The Qwen3 folder declares two; random weights draw both soon."""
    tokenizer, policy = load(folders["qwen3"])
    engine = PytorchEngine(policy, tokenizer, Inference())
    done = engine.generate([[5, 6, 7]], group_size=200, sampling=Sampling(max_tokens=60), step=0)[0]
    last = {d.token_ids[-1] for d in done if d.finish_reason == "stop"}
    assert last == tokenizer.eos_ids == {0, 2}


def test_a_stop_text_ends_a_completion_at_the_token_that_completes_it(sums: Any):
    """The same tokens as without it, cut where the decoded text first holds one of the texts."""
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference())
    stops = ("ed{1", "k \\b", "=1")
    free = engine.generate(prompts, group_size=8, sampling=SAMPLING, step=0)
    stopped = engine.generate(prompts, group_size=8, sampling=replace(SAMPLING, stop=stops), step=0)
    num_cut = 0
    for whole, part in zip(flat(free), flat(stopped), strict=True):
        ends = (
            n for n in range(1, len(whole.token_ids)) if any(s in tokenizer.decode(whole.token_ids[:n]) for s in stops)
        )
        end = next(ends, len(whole.token_ids))
        assert list(part.token_ids) == list(whole.token_ids)[:end]
        assert part.finish_reason == "stop"
        num_cut += end < len(whole.token_ids)
    assert num_cut > 20


def test_completions_carry_the_version_of_the_last_update(sums: Any):
    tokenizer, policy, prompts = sums
    engine = PytorchEngine(policy, tokenizer, Inference())
    assert engine.generate(prompts[:1], group_size=1, sampling=SAMPLING, step=0)[0][0].policy_version == 0
    engine.update_weights(7)
    assert engine.generate(prompts[:1], group_size=1, sampling=SAMPLING, step=0)[0][0].policy_version == 7


@pytest.mark.parametrize("weights", ["shared", "shadow"])
@pytest.mark.parametrize("kind", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_a_changed_policy_cannot_be_sampled_under_its_old_version(
    folders: dict[str, Path], weights: str, kind: dict[str, Any]
):
    """Every kind of optimiser step is noticed until `update_weights` is called."""
    tokenizer, policy = load(folders["llama"])
    engine = PytorchEngine(policy, tokenizer, Inference(weights=weights))
    trained = [p for p in policy.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(trained, lr=1e-3, **kind).step()
    with pytest.raises(AssertionError, match="changed since update_weights"):
        engine.generate([[5, 6]], group_size=1, sampling=SAMPLING, step=1)
    engine.update_weights(1)
    engine.generate([[5, 6]], group_size=1, sampling=SAMPLING, step=1)


def test_damaged_weights_stop_the_run(folders: dict[str, Path]):
    tokenizer, policy = load(folders["llama"])
    engine = PytorchEngine(policy, tokenizer, Inference(weights="shadow"))
    randomise_adapter(policy)
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).fill_(float("nan"))
    engine.update_weights(1)
    with pytest.raises(RunError, match="not finite"):
        engine.generate([[5, 6]], group_size=2, sampling=SAMPLING, step=1)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folders: dict[str, Path]):
    tokenizer, policy = load(folders["qwen3"])
    engine = PytorchEngine(policy, tokenizer, Inference())
    with pytest.raises(ConfigError, match="token 300, but the model knows only 300"):
        engine.generate([[5, 300]], group_size=1, sampling=SAMPLING, step=0)


def test_a_model_that_keeps_its_past_elsewhere_is_refused_by_name(folders: dict[str, Path]):
    """Mamba has no keys and values; BLOOM takes its positions from the mask, so ours would be wrong."""
    import transformers

    tokenizer, _ = load(folders["llama"])
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=1))
    bloom = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=384, hidden_size=32, n_layer=1, n_head=2))
    for model in (mamba, bloom):
        with pytest.raises(ConfigError, match=f"cannot run {model.config.model_type} models"):
            PytorchEngine(model.eval(), tokenizer, Inference())


def test_a_model_whose_logits_depend_on_what_was_fed_at_once_is_refused(folders: dict[str, Path]):
    """It runs without complaint, and would be sampled wrongly: only the comparison with its own forward tells."""
    import transformers

    class Peculiar(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any, **inputs: Any) -> Any:  # type: ignore[override]  narrower on purpose
            output: Any = super().forward(input_ids=input_ids, **inputs)
            output.logits = output.logits * (1 + 0.05 * input_ids.shape[1])
            return output

    tokenizer, _ = load(folders["llama"])
    model = Peculiar.from_pretrained(folders["llama"])
    with pytest.raises(ConfigError, match="cannot run llama models"):
        PytorchEngine(model, tokenizer, Inference())


def test_a_stopped_engine_samples_no_more(folders: dict[str, Path]):
    tokenizer, policy = load(folders["llama"])
    engine = PytorchEngine(policy, tokenizer, Inference())
    engine.stop()
    engine.stop()
    with pytest.raises(AssertionError, match="stopped"):
        engine.generate([[5, 6]], group_size=1, sampling=SAMPLING, step=0)


def test_the_cache_holds_what_was_appended_through_growth_spreading_and_dropping():
    """Against concatenation, the plain way: 2 prompts spread over 3 rows each, of which four rows stay."""
    torch.manual_seed(0)
    cache, reference = KvCache(rows=6, positions=5, limit=40), torch.randn(2, 2, 4, 3)
    cache.update(reference, -reference, 0)
    cache.advance(4)
    cache.spread(2, 3)
    reference = reference.repeat_interleave(3, 0)
    for t in range(30):
        if t == 7:
            index = torch.tensor([0, 2, 3, 5])
            cache.keep(index)
            reference = reference[index]
        new = torch.randn(len(reference), 2, 1, 3)
        reference = torch.cat([reference, new], 2)
        keys, values = cache.update(new, -new, 0)
        cache.advance(1)
        assert torch.equal(keys, reference)
        assert torch.equal(values, -reference)
    assert cache.get_seq_length() == 34
