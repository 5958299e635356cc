"""Data sets of the hub: rows to tasks, and failing clearly and at once without a network."""

import importlib.util
import time

import pytest
from datasets import config as datasets_config
from huggingface_hub import constants

from retrain.config.schema import Data
from retrain.data import hub
from retrain.errors import ConfigError


def test_the_answer_of_math_is_the_last_box_of_the_solution():
    row = {
        "problem": "What is $1/2+1/3$?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": r"First $\boxed{x}$, then $\boxed{\frac{5}{6}}$.",
    }
    task = hub.math_task(row, "math-algebra-0")
    assert task.prompt == ({"role": "user", "content": "What is $1/2+1/3$?"},)
    assert task.answer == r"\frac{5}{6}"
    assert task.info == {"level": "Level 1", "type": "Algebra", "solution": row["solution"]}


def test_a_box_of_math_may_lack_its_braces():
    assert hub.math_task({"problem": "?", "solution": r"So $x = \boxed 2$."}, "t").answer == "2"


def test_the_answer_of_gsm8k_follows_four_hashes_without_commas():
    row = {"question": "How much?", "answer": "He has 2*600=<<2*600=1200>>1200.\n#### 1,200"}
    task = hub.gsm8k_task(row, "gsm8k-0")
    assert task.answer == "1200"
    assert task.info == {"solution": "He has 2*600=<<2*600=1200>>1200."}


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """A hub that refuses the connection, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets_config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets_config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path)


@pytest.mark.parametrize(
    ("section", "load", "named"),
    [
        (Data(source="math"), hub.load_math, "EleutherAI/hendrycks_math (algebra), split train"),
        (Data(source="gsm8k", split="test"), hub.load_gsm8k, "openai/gsm8k (main), split test"),
        (Data(source="hf", name="nobody/nothing"), hub.load_hf, "nobody/nothing, split train"),
    ],
)
def test_without_a_network_it_says_so_in_seconds_and_what_to_do(unreachable, section, load, named):
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load(section)
    assert time.monotonic() - began < 20  # `datasets` alone goes on for 23 s and more
    (problem,) = caught.value.problems
    assert named in problem.message
    assert "the hub cannot be reached" in problem.hint
    assert "arithmetic" in problem.hint
    assert constants.HF_HUB_OFFLINE is False  # the switch is back for whoever comes next
    assert datasets_config.HF_HUB_OFFLINE is False


def test_a_local_data_set_is_read_with_its_columns(tmp_path):
    """`datasets` reads a folder of files like a data set of the hub, so this is the whole path but the download."""
    (tmp_path / "train.jsonl").write_text('{"q": "1+1=", "a": 2, "level": 3}\n{"q": "2+2=", "a": 4, "level": 1}\n')
    section = Data(source="hf", name=str(tmp_path), prompt_key="q", answer_key="a")
    tasks = hub.load_hf(section).tasks
    assert [(task.prompt[0]["content"], task.answer, task.info) for task in tasks] == [
        ("1+1=", "2", {"level": 3}),
        ("2+2=", "4", {"level": 1}),
    ]
    with pytest.raises(ConfigError, match='no row has "question"; the columns are q, a, level'):
        hub.load_hf(Data(source="hf", name=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"split dev, could not be loaded: .*dev"):
        hub.load_hf(Data(source="hf", name=str(tmp_path), split="dev"))


def test_an_unknown_subject_of_math_is_named_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        hub.load_math(Data(source="math", name="algebra, geometri"))
    assert '"geometri" is not a subject' in caught.value.problems[0].message
    assert 'did you mean "geometry"?' in caught.value.problems[0].message


def test_keys_that_mean_nothing_and_a_missing_name_are_errors():
    with pytest.raises(ConfigError, match=r"data\.name"):
        hub.load_gsm8k(Data(source="gsm8k", name="main"))
    with pytest.raises(ConfigError, match=r"data\.name is empty"):
        hub.load_hf(Data(source="hf"))


def test_without_datasets_the_error_is_the_command_that_installs_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "datasets" else found(name, *rest)
    )
    with pytest.raises(ConfigError) as caught:
        hub.load_gsm8k(Data(source="gsm8k"))
    assert caught.value.problems[0].hint == 'pip install "retrain[local]"'
