"""What is held out: the same whatever else is set, never trained on, and little."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.config.schema import Data, Eval, RunConfig, Training
from retrain.data import held_out, load
from retrain.data.held_out import cut
from retrain.errors import ConfigError
from retrain.types import Task


def task(name, prompt):
    return Task(id=str(name), prompt=({"role": "user", "content": prompt},), answer="1")


def tasks(num):
    return [task(i, f"{i}+1=") for i in range(num)]


def ids(chosen):
    return {each.id for each in chosen}


@given(st.lists(st.integers(0, 40), min_size=20, max_size=120), st.integers(0, 20))
def test_a_question_is_on_one_side_and_never_more_than_a_tenth_is_held_out(numbers, examples):
    every = [task(i, f"{number}+1=") for i, number in enumerate(numbers)]
    training, held = cut(every, examples)
    assert ids(training) | ids(held) == ids(every)
    assert len(training) + len(held) == len(every)
    assert held_out.shared(held, training) == 0
    assert len(held) <= min(len(every) // 10, examples or len(every))


def test_equal_but_for_white_space_is_the_same_question_and_another_role_is_not():
    key = held_out.question_key
    assert key(task("a", "17 +\n 25 = ")) == key(task("b", "17 + 25 ="))
    assert key(task("a", "17+25=")) != key(task("a", "17+26="))
    assert key(task("a", "x")) != key(Task(id="a", prompt=({"role": "assistant", "content": "x"},)))


def test_the_cut_follows_the_content_and_not_the_order_of_the_rows():
    every = tasks(200)
    assert ids(cut(every, 0)[1]) == ids(cut(every[::-1], 0)[1])
    assert [t.id for t in cut(every, 0)[1]] == sorted(ids(cut(every, 0)[1]), key=int)  # in the order of the source


def test_a_larger_part_contains_a_smaller_one_and_a_longer_file_moves_few_sides():
    every = tasks(200)
    five, all_ = ids(cut(every, 5)[1]), ids(cut(every, 0)[1])
    assert len(five) == 5
    assert len(all_) == 20
    assert five < all_
    assert len((ids(cut(tasks(210), 0)[1]) & ids(every)) - all_) <= 1  # there is room for one more


def test_a_prompt_that_is_repeated_more_often_than_there_is_room_stays_in_training():
    every = [*(task(f"same{i}", "again?") for i in range(50)), *tasks(50)]
    training, held = cut(every, 0)
    assert len(held) == 10
    assert not any(t.id.startswith("same") for t in held)
    assert len(training) == 90


def test_below_twenty_examples_nothing_is_held_out():
    assert cut(tasks(19), 0) == (tasks(19), [])
    assert len(cut(tasks(20), 0)[1]) == 2


def config(**sections):
    return RunConfig(**{"data": Data(source="arithmetic"), **sections})


def test_what_is_held_out_depends_on_no_other_key():
    plain = load(config(), places=[])
    other = load(
        config(
            data=Data(source="arithmetic", system_prompt="Add.", instruction="Now."),
            training=Training(seed=7, shuffle=False, max_examples=30, max_steps=3),
        ),
        places=[],
    )
    assert len(plain.held_out) == 256
    assert ids(plain.held_out) == ids(other.held_out)
    assert len(other.tasks) == 30
    assert not ids(plain.held_out) & ids(plain.tasks)
    assert [m["role"] for m in other.held_out[0].prompt] == ["system", "user"]  # asked as in training
    assert other.held_out[0].prompt[-1]["content"].endswith("\nNow.")


def test_without_evaluations_everything_is_trained_on():
    whole = load(config(eval=Eval(every=0)), places=[])
    assert len(whole.tasks) == len(load(config(), places=[]).tasks) + 256
    assert whole.held_out == whole.test == []


def test_the_digest_is_that_of_the_training_tasks_alone():
    one, two = (load(config(eval=Eval(every=0, final_test=final)), places=[]) for final in (False, True))
    assert two.test
    assert one.digest == two.digest != load(config(), places=[]).digest


def test_the_final_test_is_the_whole_test_split_of_the_training_source():
    loaded = load(config(eval=Eval(final_test=True, examples=10)), places=[])
    expected = load(config(data=Data(source="arithmetic", split="test"), eval=Eval(every=0)), places=[])
    assert loaded.test == expected.tasks
    assert len(loaded.held_out) == 10
    assert not ids(loaded.test) & (ids(loaded.tasks) | ids(loaded.held_out))


@pytest.fixture
def rows(tmp_path):
    def write(name, numbers):
        lines = [json.dumps({"q": f"{n}+1=", "answer": n + 1}) for n in numbers]
        (tmp_path / name).write_text("\n".join(lines))

    write("train.jsonl", range(100))
    write("few.jsonl", range(19))
    write("held.jsonl", range(90, 130))
    return tmp_path


def of_rows(file="train.jsonl", **wanted):
    data = Data(source="jsonl", path=file, prompt_key="q", instruction="In a box.")
    return RunConfig(data=data, eval=Eval(**wanted))


def test_a_source_of_its_own_is_asked_as_training_is_and_shared_problems_are_counted(rows, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load(of_rows(source="jsonl", path="held.jsonl"), places=[rows])
    assert "10 of the 40 held-out problems are also in the training data" in caplog.text
    assert len(loaded.tasks) == 100
    assert loaded.held_out[0].prompt[0]["content"] == "90+1=\nIn a box."


def test_an_empty_split_of_another_source_is_its_test_split_and_columns_are_not_carried_over(rows):
    loaded = load(of_rows(source="arithmetic", name="+:1", examples=5), places=[rows])
    assert len(loaded.held_out) == 5
    test = load(RunConfig(data=Data(source="arithmetic", name="+:1", split="test")), places=[]).tasks
    assert ids(loaded.held_out) <= ids(test)


def test_a_plugin_is_asked_for_its_test_split(tmp_path):
    (tmp_path / "split_rows.py").write_text(
        'def rows(data):\n    return [{"prompt": f"{data.split} {i}", "answer": i} for i in range(3)]\n'
    )
    loaded = load(config(eval=Eval(source="split_rows:rows")), places=[tmp_path])
    assert loaded.held_out[0].prompt[0]["content"] == "test 0"


def test_problems_of_another_source_name_its_own_keys(rows):
    with pytest.raises(ConfigError) as caught:
        load(of_rows(source="jsonl", path="gone.jsonl"), places=[rows])
    (problem,) = caught.value.problems
    assert problem.key == "eval.path"
    assert problem.message.startswith('eval.path = "gone.jsonl" cannot be read')


def test_too_few_examples_are_said_and_not_refused(rows, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load(of_rows("few.jsonl"), places=[rows])
    assert "no held-out score: 19 examples are too few" in caplog.text
    assert (len(loaded.tasks), loaded.held_out) == (19, [])


def test_a_source_without_a_test_split_is_refused_by_name(rows):
    with pytest.raises(ConfigError, match=r"eval\.final_test = true: .*split"):
        load(of_rows(final_test=True), places=[rows])
