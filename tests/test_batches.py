"""From tasks to a credited batch: padding by masks, the right policy, and what is measured."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.baselines import Grpo
from retrain.advantages.pipeline import TransformPipeline
from retrain.batches import Batches, collate, measure
from retrain.config.schema import RunConfig
from retrain.errors import RunError
from retrain.events import ignore
from retrain.types import Completion, Credit, Group, Job, Rollout, Sampling, Score, Task


def completion(ids, *, version=0, finish="stop", entropies=True):
    return Completion(
        token_ids=ids,
        logprobs=[-0.5 * (i + 1) for i in range(len(ids))],
        entropies=[0.25] * len(ids) if entropies else None,
        finish_reason=finish,
        policy_version=version,
    )


def group(prompt, *completions, rewards=None, task="t"):
    rewards = rewards or [0.0] * len(completions)
    rollouts = [
        Rollout(prompt_ids=prompt, completion=c, text="", reward=r) for c, r in zip(completions, rewards, strict=True)
    ]
    return Group(task=Task(id=task, prompt=()), rollouts=rollouts)


def test_prompts_are_padded_on_the_left_and_completions_on_the_right():
    batch = collate(
        [group([5, 6, 7], completion([1]), completion([2, 3])), group([8], completion([4, 4, 4]), completion([9]))],
        pad_id=0,
        mask_truncated=False,
    )
    assert batch.prompt_ids.tolist() == [[5, 6, 7], [5, 6, 7], [0, 0, 8], [0, 0, 8]]
    assert batch.prompt_mask.tolist() == [[True] * 3, [True] * 3, [False, False, True], [False, False, True]]
    assert batch.completion_ids.tolist() == [[1, 0, 0], [2, 3, 0], [4, 4, 4], [9, 0, 0]]
    assert batch.loss_mask.sum(dim=1).tolist() == [1, 2, 3, 1]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert batch.sampling_logprobs[1].tolist() == [-0.5, -1.0, 0.0]


def test_a_sampled_token_that_equals_the_pad_id_is_still_trained():
    batch = collate([group([0, 5], completion([0, 3, 0]), completion([4]))], pad_id=0, mask_truncated=False)
    assert batch.loss_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.prompt_mask.all()


def test_truncated_completions_leave_the_loss_when_asked():
    groups = [group([5], completion([1, 2], finish="length"), completion([3]))]
    assert collate(groups, pad_id=0, mask_truncated=True).loss_mask.tolist() == [[False, False], [True, False]]
    assert collate(groups, pad_id=0, mask_truncated=False).loss_mask.tolist() == [[True, True], [True, False]]


def test_entropies_are_whole_or_absent():
    mixed = [group([5], completion([1]), completion([2], entropies=False))]
    assert collate(mixed, pad_id=0, mask_truncated=False).entropies is None


def test_what_is_measured_matches_a_hand_count():
    groups = [
        group([1], completion([1, 2]), completion([1], finish="length"), rewards=[1.0, 0.0]),  # informative
        group([1], completion([1]), completion([1]), rewards=[1.0, 1.0]),  # all correct
        group([1], completion([1]), completion([1, 1, 1, 1]), rewards=[None, 0.0]),  # all wrong, one unscorable
        group([1], completion([1]), completion([1]), rewards=[None, None]),  # says nothing
    ]
    batch = collate(groups, pad_id=0, mask_truncated=False)
    advantages = batch.loss_mask * torch.tensor([0.5, -0.5, 0, 0, 0, 0, 0, 0], dtype=torch.float64)[:, None]
    metrics = measure(groups, batch, Credit(advantages=advantages, uncertainty=advantages))
    assert metrics["reward/mean"] == pytest.approx(3 / 5)
    assert metrics["reward/std"] == pytest.approx(math.sqrt(0.24))
    assert metrics["reward/correct_rate"] == pytest.approx(3 / 5)
    assert metrics["reward/unscorable"] == pytest.approx(3 / 8)
    assert (metrics["groups/informative"], metrics["groups/all_correct"], metrics["groups/all_wrong"]) == (
        0.25,
        0.25,
        0.25,
    )
    assert metrics["completion/length_mean"] == pytest.approx(12 / 8)
    assert metrics["completion/length_max"] == 4
    assert metrics["completion/truncated_rate"] == 1 / 8
    assert metrics["advantage/max_abs"] == 0.5
    assert metrics["entropy/mean"] == pytest.approx(0.25)
    assert metrics["tokens/generated"] == 12


def measured(*groups):
    batch = collate(groups, pad_id=0, mask_truncated=False)
    nothing = batch.loss_mask * 0.0
    return measure(groups, batch, Credit(advantages=nothing, uncertainty=nothing))


def test_duplicates_are_equal_token_for_token_and_within_their_group():
    """Padding does not make them equal, nor does another group: rows 0, 2 and 3 of the first group are the same."""
    same = group([1], completion([7, 0]), completion([7]), completion([7, 0]), completion([7, 0]))
    other = group([1], completion([7, 0]), completion([7]), completion([7, 0, 0]), completion([0, 7]))
    assert measured(same, other)["completion/duplicate_rate"] == 3 / 8
    assert measured(other)["completion/duplicate_rate"] == 0.0
    assert measured(group([1], completion([7]), completion([7])))["completion/duplicate_rate"] == 1.0


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.floats(-2, 2)), min_size=2, max_size=12))
def test_the_correlation_of_reward_and_length_is_pearsons_over_scored_completions(drawn):
    metrics = measured(group([1], *(completion([3] * n) for n, _ in drawn), rewards=[reward for _, reward in drawn]))
    lengths = [n for n, reward in drawn if reward is not None]
    rewards = [reward for _, reward in drawn if reward is not None]
    if not rewards or max(rewards) - min(rewards) <= 1e-6 or len(set(lengths)) == 1:
        assert "reward/length_correlation" not in metrics
    else:
        assert metrics["reward/length_correlation"] == pytest.approx(statistics.correlation(lengths, rewards), abs=1e-9)
        assert -1 <= metrics["reward/length_correlation"] <= 1


def test_a_step_without_any_reward_invents_none():
    groups = [group([1], completion([1]), completion([2]), rewards=[None, None])]
    batch = collate(groups, pad_id=0, mask_truncated=False)
    metrics = measure(groups, batch, Credit(advantages=batch.loss_mask * 0.0, uncertainty=batch.loss_mask * 0.0))
    assert "reward/mean" not in metrics
    assert metrics["reward/unscorable"] == 1.0


class Bytes:
    """A tokenizer of characters."""

    eos_ids, pad_id = frozenset({0}), 0

    def encode_prompt(self, messages):
        return [ord(c) for c in messages[-1]["content"]]

    def decode(self, token_ids):
        return "".join(chr(i) for i in token_ids)


class Echo:
    """An engine that answers with the prompt, then rollout by rollout one more letter."""

    gives_entropies = False

    def __init__(self, stale=False):
        self.version, self.stale = -1, stale

    def update_weights(self, version):
        self.version = 0 if self.stale else version

    def generate(self, prompts, *, group_size, sampling, step, stream=0, first_task=0):
        return [
            [completion([*p, *([65] * i)], version=self.version, entropies=False) for i in range(group_size)]
            for p in prompts
        ]

    def stop(self):
        pass


class Keeps:
    """A store that remembers."""

    def __init__(self):
        self.steps = []

    def write_rollouts(self, step, groups, credit, planning):
        self.steps.append((step, [group.task.id for group in groups]))


class Longest:
    """Rewards length; fails where told to."""

    def __init__(self, error=""):
        self.error = error

    def score(self, texts, tasks):
        if self.error:
            return [Score(value=None, error=self.error) for _ in texts]
        return [Score(value=float(len(t) > 3), parts={"length": float(len(t))}) for t in texts]

    def close(self):
        pass


def batches(reward=None, engine=None, baseline=None, **algorithm):
    config = RunConfig()
    config.training.batch_size, config.training.group_size, config.training.max_steps = 2, 3, 9
    for name, value in algorithm.items():
        setattr(config.algorithm, name, value)
    tasks = [Task(id=str(i), prompt=({"role": "user", "content": "ab"},), answer="") for i in range(6)]
    job = Job(
        config=config,
        data=tasks,
        tokenizer=Bytes(),
        reward=reward or Longest(),
        baseline=baseline or Grpo(),
        pipeline=TransformPipeline([], max_steps=9),
        backend=None,
        sampling=Sampling(max_tokens=8),
        emit=ignore,
    )
    store = Keeps()
    return Batches(job, engine or Echo(), store), store


def test_a_batch_carries_its_credit_and_its_rollouts_are_kept():
    made, store = batches()
    batch = made.next_batch(0)
    assert batch.credit.advantages.dtype == torch.float64
    assert batch.batch.rewards.tolist() == [0.0, 0.0, 1.0] * 2
    assert batch.credit.advantages[2, :4].tolist() == pytest.approx([2 / 3] * 4)
    assert not batch.credit.advantages[~batch.batch.loss_mask].any()
    assert batch.metrics["reward/length"] == 3
    assert [step for step, _ in store.steps] == [1]


def test_a_pass_over_the_data_sees_every_task_once():
    made, store = batches()
    for step in range(3):
        made.next_batch(step)
    assert sorted(task for _, tasks in store.steps for task in tasks) == [str(i) for i in range(6)]


def test_steps_that_share_a_batch_do_not_use_up_tasks():
    made, store = batches(num_iterations=2)
    for step in (0, 2, 4):
        made.next_batch(step)
    assert sorted(task for _, tasks in store.steps for task in tasks) == [str(i) for i in range(6)]


def test_completions_of_another_policy_stop_the_run():
    made, _ = batches(engine=Echo(stale=True))
    made.next_batch(0)
    with pytest.raises(RunError, match=r"policy version \[0\], not from 1"):
        made.next_batch(1)


def test_three_steps_in_a_row_without_a_score_stop_the_run_with_the_error():
    made, _ = batches(reward=Longest(error="ZeroDivisionError: oops"))
    made.next_batch(0)
    made.next_batch(1)
    with pytest.raises(RunError, match="ZeroDivisionError: oops"):
        made.next_batch(2)


def test_how_long_nothing_was_scored_survives_a_resume():
    made, _ = batches(reward=Longest(error="oops"))
    made.next_batch(0)
    made.next_batch(1)
    again, _ = batches(reward=Longest(error="oops"))
    again.load_state_dict(made.state_dict())
    with pytest.raises(RunError, match="oops"):
        again.next_batch(2)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(5), "one advantage per completion"),
        (torch.full((6,), math.nan), "not finite"),
        ([0.0] * 6, "one advantage"),
    ],
)
def test_a_baseline_that_returns_something_unusable_is_named(returned, said):
    made, _ = batches(baseline=lambda rewards, group_ids: returned, advantage_mode="my_plugin:attr")
    with pytest.raises(RunError, match=said) as caught:
        made.next_batch(0)
    assert "my_plugin:attr" in str(caught.value)
