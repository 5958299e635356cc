"""From a config to tasks: plugins, prompts as the model sees them, and the choice of examples."""

import re

import pytest

from retrain.config.schema import Data, Eval, RunConfig, Training
from retrain.data import LoadedData, load
from retrain.data.source import BOXED
from retrain.errors import ConfigError
from retrain.types import Task

ROWS = """
from retrain.data.source import Source
from retrain.types import Task

def tables(data):
    for i in range(20):
        yield {"prompt": f"{i}+1=", "answer": i + 1, "level": i % 3}

def objects(data):
    prompt = ({"role": "system", "content": "s"}, {"role": "user", "content": data.name})
    return [Task(id="a", prompt=prompt, answer="1")]

def whole(data):
    return Source(tasks=objects(data), reward="match", instruction="")

def same_ids(data):
    return [{"id": "x", "prompt": "a", "answer": "1"}, {"id": "x", "prompt": "b", "answer": "1"}]

def nothing(data):
    return []

def a_number(data):
    return 5

def wrong_items(data):
    return ["17+25="]

def no_answer(data):
    return [{"prompt": "17+25="}]

def broken(data):
    raise KeyError("column")

not_a_function = 3
"""


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "my_rows.py").write_text(ROWS)

    def loaded(attribute, *, max_examples=0, **keys) -> LoadedData:
        data = Data(source=f"my_rows:{attribute}", **keys)
        config = RunConfig(data=data, training=Training(max_examples=max_examples), eval=Eval(every=0))
        return load(config, places=[tmp_path])

    return loaded


def test_a_plugin_may_give_tables(rows):
    loaded = rows("tables")
    task = loaded.tasks[3]
    assert (task.id, task.answer, task.info) == ("3", "4", {"level": 0})
    assert task.prompt == ({"role": "user", "content": f"3+1=\n{BOXED}"},)
    assert loaded.reward == "math"


def test_a_plugin_gets_the_data_section_and_may_give_tasks(rows):
    (task,) = rows("objects", name="what?", instruction="").tasks
    assert [message["content"] for message in task.prompt] == ["s", "what?"]


def test_a_source_may_choose_its_reward_and_instruction(rows):
    loaded = rows("whole", name="q")
    assert loaded.reward == "match"
    assert loaded.tasks[0].prompt[-1]["content"] == "q"


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("nothing", 'data.source = "my_rows:nothing" has no examples'),
        ("same_ids", 'two examples have the id "x"'),
        ("a_number", 'data.source = "my_rows:a_number" returned 5'),
        ("wrong_items", 'data.source = "my_rows:wrong_items" gave example 0: "17+25="'),
        ("no_answer", 'data.source = "my_rows:no_answer" gave example 0: no "answer"'),
        ("broken", "data.source = \"my_rows:broken\" failed: KeyError: 'column'"),
        ("not_a_function", 'data.source = "my_rows:not_a_function" is 3, not a function'),
    ],
)
def test_a_plugin_that_gives_something_else_is_named(rows, attribute, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        rows(attribute)


def test_the_system_prompt_comes_first_and_the_instruction_last(rows):
    task = rows("tables", system_prompt="Be brief.", instruction="In a box.").tasks[0]
    assert task.prompt == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "0+1=\nIn a box."},
    )


def test_two_system_messages_are_an_error(rows):
    with pytest.raises(
        ConfigError, match=r'data.system_prompt is set, but example "a" has a system message of its own'
    ):
        rows("objects", name="q", system_prompt="Be brief.")


def test_max_examples_keeps_some_in_their_order_and_more_keeps_the_same_ones():
    def ids(max_examples):
        config = RunConfig(
            data=Data(source="arithmetic"), training=Training(max_examples=max_examples, seed=max_examples)
        )
        return [task.id for task in load(config, places=[]).tasks]

    whole, some = ids(0), ids(50)
    assert len(some) == 50
    assert set(some) < set(ids(51))
    assert some == [name for name in whole if name in some]
    assert some != whole[:50]
    assert ids(10_000) == whole


def test_max_examples_does_not_depend_on_the_order_of_the_rows(tmp_path):
    lines = [f'{{"question": "{i}", "answer": "{i}"}}\n' for i in range(40)]

    def chosen(content):
        (tmp_path / "d.jsonl").write_text("".join(content))
        config = RunConfig(data=Data(source="jsonl", path="d.jsonl"), training=Training(max_examples=7))
        return {task.answer for task in load(config, places=[tmp_path]).tasks}

    assert chosen(lines) == chosen(lines[::-1])


def test_a_relative_path_is_looked_up_beside_the_toml_then_in_the_working_directory(tmp_path, monkeypatch):
    beside, here = tmp_path / "beside", tmp_path / "here"
    for place, answer in ((beside, "1"), (here, "2")):
        place.mkdir()
        (place / "d.jsonl").write_text(f'{{"question": "?", "answer": "{answer}"}}\n')
    config = RunConfig(data=Data(source="jsonl", path="d.jsonl"))
    assert load(config, places=[beside, here]).tasks[0].answer == "1"
    (beside / "d.jsonl").unlink()
    assert load(config, places=[beside, here]).tasks[0].answer == "2"


def test_the_digest_changes_with_any_id_prompt_answer_or_order():
    def digest(*tasks):
        return LoadedData(tasks=tasks, reward="match").digest

    def task(name="a", prompt="q", answer="1"):
        return Task(id=name, prompt=({"role": "user", "content": prompt},), answer=answer)

    others = [digest(task("b")), digest(task(prompt="p")), digest(task(answer="2")), digest(task(), task("b"))]
    assert digest(task()) == digest(task())
    assert len({digest(task()), *others, digest(task("b"), task())}) == 6


def test_an_unknown_source_says_which_module_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="no_such_module"):
        load(RunConfig(data=Data(source="no_such_module:rows")), places=[tmp_path])
