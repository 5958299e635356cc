"""Held-out evaluation: the numbers are right, repeat, and nothing that is trained on notices."""

import logging
import random
import zlib

import numpy as np
import pytest
import torch

from retrain import evaluate
from retrain.config.schema import Data, Eval, Inference, RunConfig, Training
from retrain.data import LoadedData
from retrain.engines.pytorch import PytorchEngine
from retrain.errors import ConfigError, RunError
from retrain.evaluate import Best, Evaluator, examine
from retrain.events import Evaluated, Phase, ignore
from retrain.types import Completion, HeldOut, Job, Sampling, Score, Task
from tests.models import load

# --- the real engine ----------------------------------------------------------------------------------------------


class Checksum:
    """A number in [0, 1) that only the text decides: another token anywhere, another score."""

    def __init__(self):
        self.closed = False

    def score(self, texts, tasks):
        random.random()  # a reward that disturbs the global generators
        np.random.rand()
        torch.rand(1)
        return [Score(value=zlib.crc32(text.encode()) / 2**32) for text in texts]

    def close(self):
        self.closed = True


def held_out(**changes):
    tasks = [Task(id=str(i), prompt=({"role": "user", "content": f"{17 + i}+{30 + 3 * i}="},)) for i in range(7)]
    values = {
        "tasks": tasks,
        "test": [],
        "reward": Checksum(),
        "training_reward": None,
        "sampling": Sampling(max_tokens=24, seed=5),
        "samples": 2,
        "rows": 64,
    }
    return HeldOut(**{**values, **changes})


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    return load("builtin:tiny", dtype="float64")


@pytest.fixture(params=["shared", "shadow"])
def engine(request, tiny):
    tokenizer, policy = tiny
    return PytorchEngine(policy, tokenizer, Inference(weights=request.param))


def looked_at(wanted, engine, tokenizer, *, version=0, emit=ignore):
    return examine(wanted.tasks, wanted, engine, tokenizer, version=version, emit=emit)


def test_the_size_of_a_call_changes_nothing(engine, tiny):
    """In float64, where rounding cannot move a token."""
    whole = looked_at(held_out(), engine, tiny[0])
    assert whole["score_se"] > 0
    for rows in (1, 2, 5, 6):
        assert looked_at(held_out(rows=rows), engine, tiny[0]) == whole


def test_every_evaluation_has_the_same_random_numbers_whatever_the_step(engine, tiny):
    assert looked_at(held_out(), engine, tiny[0], version=0) == looked_at(held_out(), engine, tiny[0], version=40)
    other_seed = held_out(sampling=Sampling(max_tokens=24, seed=6))
    assert looked_at(other_seed, engine, tiny[0]) != looked_at(held_out(), engine, tiny[0])


def test_training_samples_and_draws_what_it_would_have_without_an_evaluation(engine, tiny):
    tokenizer, policy = tiny
    prompts = [tokenizer.encode_prompt(task.prompt) for task in held_out().tasks[:3]]

    def training_step(step):
        engine.update_weights(step)
        sampled = engine.generate(prompts, group_size=4, sampling=Sampling(max_tokens=16, seed=5), step=step)
        return sampled, random.random(), np.random.rand(), torch.rand(3).tolist()

    def two_steps(*, evaluated):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        policy.train()
        first = training_step(0)
        if evaluated:
            looked_at(held_out(), engine, tokenizer, version=1)
        assert policy.training
        return first, training_step(1)

    assert two_steps(evaluated=True) == two_steps(evaluated=False)


def test_evaluation_has_its_own_stream(engine, tiny):
    tokenizer = tiny[0]
    wanted = held_out()
    prompts = [tokenizer.encode_prompt(task.prompt) for task in wanted.tasks]
    sampled = [
        engine.generate(prompts, group_size=2, sampling=wanted.sampling, step=0, stream=stream) for stream in (0, 1)
    ]
    texts = [[tokenizer.decode(c.token_ids) for group in groups for c in group] for groups in sampled]
    assert texts[0] != texts[1]
    seen = []
    watching = Checksum()
    watching.score = lambda texts, tasks: seen.extend(texts) or [Score(value=0.0) for _ in texts]
    looked_at(held_out(reward=watching), engine, tokenizer)
    assert seen == texts[1]


# --- over a run, with an engine of one's own ------------------------------------------------------------------------


class Words:
    """A tokenizer of numbers and an engine that answers the task's place, the same whatever is asked together."""

    eos_ids, pad_id, gives_entropies = frozenset(), 0, False

    def __init__(self):
        self.version, self.calls = -1, []

    def encode_prompt(self, messages):
        return [len(messages[-1]["content"])] * 4

    def decode(self, token_ids):
        return str(token_ids[0])

    def update_weights(self, version):
        self.version = version

    def generate(self, prompts, *, group_size, sampling, step, stream=0, first_task=0):
        self.calls.append((len(prompts) * group_size, step, stream, first_task))
        return [[self._completion(first_task + i) for _ in range(group_size)] for i in range(len(prompts))]

    def _completion(self, place):
        return Completion(
            token_ids=[place], logprobs=[0.0], entropies=None, finish_reason="stop", policy_version=self.version
        )

    def stop(self):
        pass


class Given:
    """Scores by what a test says."""

    def __init__(self, score=lambda place: 1.0):
        self.score_of = score

    def score(self, texts, tasks):
        return [Score(value=self.score_of(int(text))) for text in texts]

    def close(self):
        pass


def evaluator(*, every=5, max_steps=12, emit=ignore, **changes):
    words = Words()
    config = RunConfig(training=Training(max_steps=max_steps), eval=Eval(every=every))
    parts = dict.fromkeys(("data", "reward", "baseline", "pipeline", "backend", "sampling"))
    wanted = held_out(**{"reward": Given(), "samples": 1, **changes})
    return Evaluator(Job(config=config, tokenizer=words, emit=emit, held_out=wanted, **parts), words)


def test_an_evaluation_is_due_at_the_start_every_n_steps_and_at_the_end():
    assert [step for step in range(13) if evaluator().due(step)] == [0, 5, 10, 12]
    assert not any(evaluator(every=0).due(step) for step in range(13))
    assert not any(evaluator(tasks=[]).due(step) for step in range(13))


def test_calls_are_as_large_as_a_training_batch_and_tell_how_far_they_are():
    events = []
    judge = evaluator(samples=2, rows=6, emit=events.append)
    judge(10)
    assert judge.engine.calls == [(6, 0, 1, 0), (6, 0, 1, 3), (2, 0, 1, 6)]
    assert [e.detail for e in events if isinstance(e, Phase)] == ["0 of 7", "3 of 7", "6 of 7"]
    assert events[-1].step == 10
    assert isinstance(events[-1], Evaluated)


def test_the_gap_is_training_since_the_last_evaluation_minus_held_out():
    judge = evaluator(reward=Given(lambda place: 0.25))
    assert "eval/gap" not in judge(0)  # nothing was trained yet
    for reward in (0.5, 1.0):
        judge.observe({"reward/mean": reward})
    judge.observe({"policy/loss": 1.0})  # a step that generated nothing
    assert judge(5)["eval/gap"] == pytest.approx(0.75 - 0.25)
    judge.observe({"reward/mean": 0.0})
    assert judge(10)["eval/gap"] == pytest.approx(-0.25)


def test_a_stricter_reward_opens_the_gap_and_the_training_reward_is_told_beside_it():
    judge = evaluator(reward=Given(lambda place: 0.0), training_reward=Given(lambda place: 1.0))
    judge.observe({"reward/mean": 1.0})
    found = judge(5)
    assert (found["eval/score"], found["eval/reward"], found["eval/gap"]) == (0.0, 1.0, 1.0)


def test_the_best_is_the_earliest_of_equal_scores():
    score = 0.5
    judge = evaluator(reward=Given(lambda place: score))
    seen = []
    for step, score in [(0, 0.5), (5, 0.5), (10, 0.75), (12, 0.6)]:  # noqa: B007  read by the reward
        judge(step)
        seen.append((judge.improved, judge.best.step))
    assert seen == [(True, 0), (False, 0), (True, 10), (False, 10)]
    assert judge.best == Best(step=10, score=0.75, score_se=0.0)


def test_where_nothing_can_be_scored_there_is_no_score_but_a_warning(caplog):
    judge = evaluator(reward=Given(lambda place: None))
    with caplog.at_level(logging.WARNING):
        found = judge(5)
    assert found["eval/unscorable"] == 1.0
    assert "eval/score" not in found
    assert (judge.improved, judge.best) == (False, None)
    assert "step 5: not one of the held-out completions could be scored" in caplog.text


def test_the_test_split_is_scored_once_under_its_own_name():
    assert evaluator().test(12) == {}
    tasks = held_out().tasks[:3]
    judge = evaluator(test=tasks)
    found = judge.test(12)
    assert set(found) >= {"test/score", "test/score_se", "test/pass_at_1", "test/pass_at_1_se", "time/test"}
    assert judge.best is None


def test_state_goes_on_where_it_was():
    first, second = evaluator(), evaluator()
    first(0)
    first.observe({"reward/mean": 0.5})
    state = first.state_dict()
    second.load_state_dict(state)
    first.observe({"reward/mean": 1.0})  # the state was a copy
    second.observe({"reward/mean": 1.0})
    assert second.best == first.best
    assert second(5)["eval/gap"] == first(5)["eval/gap"] == pytest.approx(-0.25)
    assert state == {"best": {"step": 0, "score": 1.0, "score_se": 0.0}, "trained": [0.5]}


def test_completions_of_another_policy_are_refused():
    judge = evaluator()
    judge.engine.update_weights = lambda version: None
    with pytest.raises(RunError, match="completions came from policy version"):
        judge(5)


# --- from a config ------------------------------------------------------------------------------------------------


def prepared(*, reward="match", held=True, **wanted):
    config = RunConfig(
        data=Data(source="arithmetic"),
        training=Training(batch_size=2, group_size=4, max_tokens=100, temperature=0.7, top_p=0.9, stop=["x"], seed=3),
        eval=Eval(**wanted),
    )
    tasks = held_out().tasks if held else []
    given = Given()
    return given, evaluate.prepare(config, LoadedData(tasks=tasks, reward=reward, held_out=tasks), given, places=[])


def test_sampling_is_that_of_training_unless_said_otherwise():
    _, plain = prepared()
    assert plain.sampling == Sampling(max_tokens=100, temperature=0.7, top_p=0.9, stop=("x",), seed=3)
    assert plain.rows == 8
    _, other = prepared(temperature=0.0, max_tokens=400, samples=1)
    assert (other.sampling.temperature, other.sampling.max_tokens) == (0.0, 400)
    assert other.rows == 2  # four times as long: a quarter of the rows take the same memory


def test_the_reward_is_that_of_training_unless_another_is_named():
    given, plain = prepared()
    assert plain.reward is given
    assert plain.training_reward is None
    given, same = prepared(reward="match")
    assert same.reward is given
    given, stricter = prepared(reward="math")
    assert stricter.reward is given  # [eval] names none
    config = RunConfig(eval=Eval(reward="match"))
    loaded = LoadedData(tasks=[], reward="math", held_out=held_out().tasks)
    both = evaluate.prepare(config, loaded, given, places=[])
    assert both.training_reward is given
    assert both.reward is not given


def test_without_a_part_or_a_test_split_there_is_nothing_to_do():
    assert prepared(held=False)[1] is None


def test_a_reward_of_ones_own_that_is_none_is_named_by_its_key(tmp_path):
    (tmp_path / "not_a_reward.py").write_text("five = 5\n")
    config = RunConfig(eval=Eval(reward="not_a_reward:five"))
    loaded = LoadedData(tasks=[], reward="math", held_out=held_out().tasks)
    with pytest.raises(ConfigError) as caught:
        evaluate.prepare(config, loaded, Given(), places=[tmp_path])
    assert caught.value.problems[0].key == "eval.reward"
    assert 'eval.reward = "not_a_reward:five"' in str(caught.value)


def test_completions_that_leave_the_model_s_positions_are_refused():
    wanted = held_out()  # prompts of 4 tokens, completions of 24
    evaluate.check_lengths(wanted, Words(), 28)
    evaluate.check_lengths(wanted, Words(), None)
    with pytest.raises(ConfigError, match=r"eval.max_tokens = 23"):
        evaluate.check_lengths(wanted, Words(), 27)
