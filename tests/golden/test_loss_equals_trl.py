"""The licence to touch anything: given the same advantages, our loss and gradients are stock TRL's to the last bit.

Both trainers get the same completions: stock TRL through `rollout_func` and a reward function (its own tokenising,
padding, advantages, shuffling and splitting), ours as a `CreditedBatch`. Each runs its own `training_step`s.
"""

import importlib.metadata
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from retrain import tiny
from retrain.advantages.baselines import Grpo
from retrain.batches import collate
from retrain.config.schema import RunConfig
from retrain.errors import RunError
from retrain.layout import Layout
from retrain.trainer import Trainer
from retrain.trl_arguments import grpo_config
from retrain.types import Completion, Credit, CreditedBatch, Group, Rollout, Task

LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo"]
OTHERS = ["cispo", "sapo", "vespo", "luspo"]
PROMPTS, GROUP = 8, 8
PLAIN = Layout(micro_batch_size=64, trim=False, sort=False, skip=False)  # one micro-batch, as it comes


def test_trl_is_the_minor_that_the_trainer_was_written_for():
    version = importlib.metadata.version("trl")
    assert version.startswith("1.16."), (
        f"TRL moved to {version}: run tests/golden and read the header of retrain/trainer.py"
    )


@pytest.fixture(scope="module")
def groups():
    return written()


def written(spread=1):
    """Completions of uneven length, behind prompts of `spread` lengths; the first group is all wrong: rows to skip."""
    tokenizer, rng = AutoTokenizer.from_pretrained(tiny.path()), random.Random(7)
    made = []
    for number in range(PROMPTS):
        prompt = [{"role": "user", "content": f"{'9' * (number % spread + 1)}+{number}="}]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        rollouts = []
        for _ in range(GROUP):
            reward = 0.0 if number == 0 else float(rng.random() < 0.5)
            token_ids = [*tokenizer.encode("9" * rng.randint(1, 20) + "AB"[int(reward)]), tokenizer.eos_token_id]
            completion = Completion(
                token_ids=token_ids,
                logprobs=[-1.0] * len(token_ids),
                entropies=None,
                finish_reason="stop",
                policy_version=0,
            )
            rollouts.append(Rollout(prompt_ids=ids, completion=completion, text="", reward=reward))
        made.append(Group(task=Task(id=str(number), prompt=prompt), rollouts=rollouts))
    return made


def policy(dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(tiny.path(), dtype=dtype)
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, p in model.named_parameters():  # B = 0 at the start: give it values, or half of the gradients are zero
        if "lora_B" in name:
            p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.02)
    return model


def settings(tmp_path, loss, *, rows=PROMPTS * GROUP, accumulation=1, **algorithm):
    config = RunConfig()
    config.algorithm.loss_type = loss
    for name, value in algorithm.items():
        setattr(config.algorithm, name, value)
    config.training.batch_size, config.training.group_size = rows // GROUP, GROUP
    config.training.max_tokens, config.training.max_steps = 48, 4
    args = grpo_config(config, scratch=tmp_path, on_cpu=True)
    args.gradient_accumulation_steps = args.steps_per_generation = accumulation
    args.generation_batch_size = rows * accumulation
    return args


class Fixed:
    """A source that always gives the same batch."""

    def __init__(self, batch):
        self.batch = batch

    def next_batch(self, step):
        return self.batch

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class NoBooks:
    """Books that nothing is written into."""

    stop = None

    def before_first_step(self):
        pass

    def finish_step(self, step, metrics):
        pass

    def diagnose(self, found):
        raise AssertionError(found)


def credited(groups):
    """With rewards of 0 and 1 in groups of 8, r − mean has no rounding: our float64 and TRL's float32 are equal."""
    batch = collate(groups, pad_id=0, mask_truncated=False)
    advantages = Grpo()(batch.rewards, batch.group_ids)[:, None] * batch.loss_mask
    return CreditedBatch(batch=batch, credit=Credit(advantages=advantages, uncertainty=advantages * 0), metrics={})


def ours(tmp_path, groups, loss, layout=PLAIN, dtype=torch.float32, **algorithm):
    trainer = Trainer(
        model=policy(dtype),
        args=settings(tmp_path, loss, **algorithm),
        tokenizer=AutoTokenizer.from_pretrained(tiny.path()),
        source=Fixed(credited(groups)),
        layout=layout,
        books=NoBooks(),
        store=SimpleNamespace(dir=tmp_path),
    )
    trainer.ratios.open = True  # these completions were written by hand: no policy sampled them
    return trainer


def stock(tmp_path, groups, loss, *, rows=PROMPTS * GROUP, accumulation=1, **algorithm):
    rollouts = [rollout for group in groups for rollout in group.rollouts]

    def replay(prompts, trainer):
        return {
            "prompt_ids": [r.prompt_ids for r in rollouts],
            "completion_ids": [list(r.completion.token_ids) for r in rollouts],
            "logprobs": [list(r.completion.logprobs) for r in rollouts],
        }

    args = settings(tmp_path, loss, rows=rows, accumulation=accumulation, **algorithm)
    args.scale_rewards = "none"
    return GRPOTrainer(
        model=policy(),
        args=args,
        processing_class=AutoTokenizer.from_pretrained(tiny.path()),
        train_dataset=Dataset.from_list([{"prompt": list(group.task.prompt)} for group in groups]),
        rollout_func=replay,
        reward_funcs=lambda completions, **_: [r.reward for r in rollouts],
    )


def step(trainer):
    """One optimiser step's worth of `training_step`s, as the HF loop calls them: (loss, gradients)."""
    rows = [trainer.train_dataset[i % len(trainer.train_dataset)] for i in range(PROMPTS) for _ in range(GROUP)]
    accumulation = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = accumulation
    trainer.model.zero_grad(set_to_none=True)
    torch.manual_seed(3)  # TRL shuffles the generated batch with the global generator
    trainer.model.train()
    loss = sum(trainer.training_step(trainer.model, rows, None) for _ in range(accumulation))
    return loss, {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def relative(a, b):
    assert a.keys() == b.keys()
    norm = math.sqrt(sum(float((x.double() ** 2).sum()) for x in b.values()))
    return math.sqrt(sum(float(((a[k].double() - b[k].double()) ** 2).sum()) for k in a)) / norm


def assert_equal_to_the_bit(got, expected):
    (loss, grads), (expected_loss, expected_grads) = got, expected
    assert torch.equal(loss, expected_loss)
    assert grads.keys() == expected_grads.keys()
    assert any(float(g.abs().max()) > 0 for g in grads.values())
    assert [name for name in grads if not torch.equal(grads[name], expected_grads[name])] == []


@pytest.mark.parametrize("loss", [*LOSSES, *OTHERS])
def test_loss_and_gradients_equal_stock_trl_bit_for_bit(tmp_path, groups, loss):
    extra = {"clip_eps_high": 2.0} if loss == "cispo" else {}
    assert_equal_to_the_bit(step(ours(tmp_path, groups, loss, **extra)), step(stock(tmp_path, groups, loss, **extra)))


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])  # bnpo: the test after this one
def test_four_micro_batches_equal_trls_four_accumulation_steps_bit_for_bit(tmp_path, groups, loss):
    expected = step(stock(tmp_path, groups, loss, rows=16, accumulation=4))
    assert_equal_to_the_bit(step(ours(tmp_path, groups, loss, replace(PLAIN, micro_batch_size=16))), expected)


def test_stock_bnpo_depends_on_the_split_and_ours_does_not(tmp_path, groups):
    _, whole = step(stock(tmp_path, groups, "bnpo"))
    _, split = step(stock(tmp_path, groups, "bnpo", rows=16, accumulation=4))
    _, mine = step(ours(tmp_path, groups, "bnpo", replace(PLAIN, micro_batch_size=16)))
    assert relative(split, whole) > 1e-3
    assert relative(mine, whole) < 1e-6


def test_sequence_level_ratios_two_sided_clip_and_kl_equal_stock_trl(tmp_path, groups):
    extra = {"importance_sampling_level": "sequence", "delta": 1.5, "kl_coef": 0.1}
    (loss, grads), (expected_loss, expected) = (
        step(ours(tmp_path, groups, "grpo", **extra)),
        step(stock(tmp_path, groups, "grpo", **extra)),
    )
    assert torch.allclose(loss, expected_loss, rtol=1e-6)
    assert relative(grads, expected) < 1e-6


@pytest.mark.parametrize("loss", [*LOSSES, "sapo", "luspo"])
def test_one_denominator(tmp_path, groups, loss):
    """Neither micro-batch size, padding, row order nor skipping changes loss or gradient: proved in float64."""
    trainer = ours(tmp_path, groups, loss, dtype=torch.float64)
    expected, reference = step(trainer)
    plain = trainer.source.batch
    wide = widened(plain, columns=40, order=torch.randperm(PROMPTS * GROUP, generator=torch.Generator().manual_seed(1)))

    def compare(batch, layout):
        trainer.accumulator.layout, trainer.source, trainer._buffered_inputs, trainer._step = (
            layout,
            Fixed(batch),
            None,
            0,
        )
        loss_now, grads = step(trainer)
        assert abs(loss_now - expected) <= 1e-12 * max(1.0, abs(float(expected)))
        assert relative(grads, reference) < 1e-12

    for size in (5, 16, 64):
        compare(plain, replace(PLAIN, micro_batch_size=size))
        compare(plain, replace(PLAIN, micro_batch_size=size, trim=True))
        compare(plain, Layout(micro_batch_size=size))
    compare(wide, PLAIN)
    compare(wide, Layout(micro_batch_size=7))


def test_padding_before_prompts_moves_the_gradient_by_rounding_only(tmp_path):
    """TRL passes no positions, so padding on the left shifts RoPE, whose angles are float32 in every dtype."""
    trainer = ours(tmp_path, written(spread=3), "dapo", dtype=torch.float64)
    _, reference = step(trainer)
    trainer.accumulator.layout, trainer._buffered_inputs, trainer._step = Layout(micro_batch_size=5), None, 0
    assert relative(step(trainer)[1], reference) < 2e-5


def widened(made, *, columns, order):
    """The same rows in another order, behind more columns of padding on the completion side."""

    def wide(value, filler):
        return torch.cat([value, value.new_full((len(value), columns), filler)], dim=1)[order]

    b, c = made.batch, made.credit
    batch = replace(
        b,
        prompt_ids=b.prompt_ids[order],
        prompt_mask=b.prompt_mask[order],
        completion_ids=wide(b.completion_ids, 0),
        loss_mask=wide(b.loss_mask, False),
        sampling_logprobs=wide(b.sampling_logprobs, 0.0),
        rewards=b.rewards[order],
        group_ids=b.group_ids[order],
    )
    return replace(
        made, batch=batch, credit=Credit(advantages=wide(c.advantages, 0.0), uncertainty=wide(c.uncertainty, 0.0))
    )


def test_a_batch_without_a_trained_token_does_not_open_the_ratio_gate(tmp_path, groups):
    """The next one is compared instead: these completions were sampled by no policy, which it must say."""
    trainer = ours(tmp_path, groups, "dapo")
    trainer.ratios.open, whole = False, trainer.source.batch
    trainer.source = Fixed(replace(whole, batch=replace(whole.batch, loss_mask=whole.batch.loss_mask & False)))
    step(trainer)
    trainer.source, trainer._buffered_inputs = Fixed(whole), None
    with pytest.raises(RunError, match="sampler and trainer disagree"):
        step(trainer)


def test_rows_without_an_advantage_are_not_computed(tmp_path, groups):
    trainer = ours(tmp_path, groups, "dapo", Layout(micro_batch_size=64))
    rows, inner = [], trainer.model.get_base_model().forward
    trainer.model.get_base_model().forward = lambda *a, **k: rows.append(len(k["input_ids"])) or inner(*a, **k)
    step(trainer)
    informative = int((trainer.source.batch.credit.advantages != 0).any(dim=1).sum())
    assert rows == [informative]
    assert informative < PROMPTS * GROUP


def test_a_step_without_any_advantage_has_zero_gradients_not_none(tmp_path, groups):
    """AdamW skips its momentum and weight decay where the gradient is None."""
    wrong = [replace(group, rollouts=[replace(r, reward=0.0) for r in group.rollouts]) for group in groups]
    trainer = ours(tmp_path, wrong, "dapo", Layout(micro_batch_size=64))
    loss, grads = step(trainer)
    assert float(loss) == 0.0
    assert len(grads) == sum(p.requires_grad for p in trainer.model.parameters())
    assert not any(g.any() for g in grads.values())
