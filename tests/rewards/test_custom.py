"""Rewards of one's own, and how a config becomes a reward."""

import logging
import subprocess
import sys

import pytest

from retrain import rewards
from retrain.config.schema import Reward, RunConfig, Training
from retrain.errors import ConfigError, RunError
from retrain.rewards.match import Match
from retrain.types import Score, Task

PLUGIN = """
import asyncio
import numpy
from retrain.types import Score

def length(response, reference):
    return len(response) / 10

def echo(response, reference):
    return eval(response)

def columns(response, reference, prompt, level, bonus=0.5):
    return {"reward": level + bonus, "level": level, "asked": len(prompt)}

def everything(response, reference, **columns):
    return float(sorted(columns) == ["level", "prompt"])

def keyword_only(response, reference, *, level):
    return level

def fails_on_bad(response, reference):
    if response == "bad":
        raise ValueError("cannot read it")
    return 1

running = 0

async def slow(response, reference):
    global running
    running += 1
    await asyncio.sleep(0.05)
    seen = running  # all that began before the first one woke up
    if response == "bad":
        raise ValueError("cannot read it")
    return seen

class Called:
    async def __call__(self, response, reference):
        return 0.25

called = Called()

def one(response):
    return 1

class Whole:
    def score(self, texts, tasks):
        return [Score(value=float(text == task.answer)) for text, task in zip(texts, tasks)]

class WithSection:
    def __init__(self, section, seed):
        self.value = section.timeout + seed
        self.closed = False

    def score(self, texts, tasks):
        return [Score(value=self.value)] * len(texts)

class TooFew(Whole):
    def score(self, texts, tasks):
        return [Score(value=1.0)]

class NotScores(Whole):
    def score(self, texts, tasks):
        return [1.0] * len(texts)

class Infinite(Whole):
    def score(self, texts, tasks):
        return [Score(value=float("inf"))] * len(texts)

class Demanding(Whole):
    def __init__(self, section):
        raise KeyError("judge")

neither = 3
"""

TASK = Task(id="t", prompt=({"role": "user", "content": "1+1="},), answer="2", info={"level": 3})


@pytest.fixture
def build(tmp_path):
    (tmp_path / "my_rewards.py").write_text(PLUGIN)
    sys.modules.pop("my_rewards", None)

    def of(attribute, **keys):
        config = RunConfig(reward=Reward(type=f"my_rewards:{attribute}", **keys), training=Training(seed=4))
        return rewards.build(config, "match", [tmp_path])

    return of


def score(reward, *texts):
    return reward.score(texts, [TASK] * len(texts))


def test_an_empty_type_means_the_reward_of_the_data_source():
    assert isinstance(rewards.build(RunConfig(), "match", []), Match)


def test_the_random_reward_throws_the_coins_of_the_runs_seed():
    def coins(seed):
        config = RunConfig(reward=Reward(type="random"), training=Training(seed=seed))
        return [s.value for s in rewards.build(config, "match", []).score(list("abcdefghijklmnop"), [TASK] * 16)]

    assert coins(1) == coins(1)
    assert coins(1) != coins(2)


def test_a_plain_function_is_called_for_each_completion_in_order(build):
    assert [s.value for s in score(build("length"), "a", "aaa", "")] == [0.1, 0.3, 0.0]


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("1", Score(value=1.0)),
        ("True", Score(value=1.0)),
        ("numpy.float32(0.5)", Score(value=0.5)),
        ("numpy.bool_(True)", Score(value=1.0)),
        ("numpy.array(2.0)", Score(value=2.0)),
        ("None", Score(value=None, error="the reward is None")),
        ("float('nan')", Score(value=None, error="the reward is nan")),
        ("float('-inf')", Score(value=None, error="the reward is -inf")),
        ("{'reward': 1, 'style': 0.5, 'unknown': None}", Score(value=1.0, parts={"style": 0.5})),
        ("{'reward': None, 'style': 0.5}", Score(value=None, parts={"style": 0.5}, error="the reward is None")),
    ],
)
def test_what_a_function_may_return(build, returned, expected):
    assert score(build("echo"), returned) == [expected]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("'0.5'", "'0.5'"),
        ("[1.0]", "[1.0]"),
        ("1j", "1j"),
        ("numpy.ones(2)", "array"),
        ("{'score': 1}", "a dict without \"reward\", but with 'score'"),
        ("{'reward': 1, 'style': 'good'}", "'good'"),
    ],
)
def test_anything_else_ends_the_run_and_names_the_function(build, returned, said):
    with pytest.raises(RunError) as caught:
        score(build("echo"), returned)
    assert 'reward "my_rewards:echo" returned' in str(caught.value)
    assert said in str(caught.value)


def test_further_parameters_are_the_prompt_and_columns_of_the_example(build):
    assert score(build("columns"), "x") == [Score(value=3.5, parts={"level": 3.0, "asked": 4.0})]
    assert score(build("everything"), "x")[0].value == 1.0
    assert score(build("keyword_only"), "x")[0].value == 3.0


def test_a_column_that_an_example_lacks_makes_its_row_unscorable_and_says_which(build):
    bare = Task(id="u", prompt=TASK.prompt, answer="2")
    (lacking,) = build("columns").score(["x"], [bare])
    assert lacking.value is None
    assert "'level'" in lacking.error


@pytest.mark.parametrize("attribute", ["fails_on_bad", "slow"])
def test_an_exception_costs_its_row_and_only_the_first_is_logged(build, caplog, attribute):
    caplog.set_level(logging.ERROR, logger="retrain")
    reward = build(attribute)
    for _ in range(2):
        values = score(reward, "good", "bad", "bad", "good")
        assert [s.value is None for s in values] == [False, True, True, False]
        assert values[1].error == "ValueError: cannot read it"
    (record,) = caplog.records
    assert "my_rewards:" in record.getMessage()
    assert record.exc_info[0] is ValueError


def test_calls_of_an_asynchronous_function_run_together(build):
    assert score(build("slow"), *["good"] * 5)[0].value == 5.0
    assert score(build("called"), "x")[0].value == 0.25


def test_a_class_with_score_is_used_as_it_is(build):
    assert [s.value for s in score(build("Whole"), "2", "3")] == [1.0, 0.0]
    build("Whole").close()


def test_a_class_may_take_the_reward_section_and_the_seed(build):
    assert score(build("WithSection", timeout=2.0), "x")[0].value == 6.0


def test_a_value_that_is_not_finite_is_unscorable(build):
    assert score(build("Infinite"), "x") == [Score(value=None, error="the reward is inf")]


@pytest.mark.parametrize(("attribute", "said"), [("TooFew", "1 values for 2 completions"), ("NotScores", "2 values")])
def test_a_class_that_returns_something_else_ends_the_run_and_is_named(build, attribute, said):
    with pytest.raises(RunError, match=f'reward "my_rewards:{attribute}" returned {said}'):
        score(build(attribute), "x", "y")


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("one", 'reward "my_rewards:one" takes 1 positional parameters'),
        ("neither", "neither a function nor has it a method score"),
        ("Demanding", "reward \"my_rewards:Demanding\" cannot be made: KeyError: 'judge'"),
        ("absent", "has no attribute absent"),
    ],
)
def test_what_cannot_be_called_as_a_reward_is_an_error_before_the_run(build, attribute, said):
    with pytest.raises(ConfigError, match=said):
        build(attribute)


def test_data_and_rewards_import_nothing_heavy():
    code = (
        "import sys, retrain.data, retrain.data.hub, retrain.data.jsonl, retrain.data.arithmetic, retrain.data.order, "
        "retrain.rewards, retrain.rewards.math, retrain.rewards.match, retrain.rewards.random; "
        "heavy = ('torch', 'transformers', 'datasets', 'pandas', 'math_verify', 'numpy'); "
        "sys.exit(str([m for m in heavy if m in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == "[]"
