"""Evaluations on disk: what was answered is what is read, whole or not at all."""

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain import evaluations
from retrain.errors import ConfigError
from retrain.evaluate import measure
from retrain.evaluations import Answer, digest, of_tasks
from retrain.types import Task

TASKS = [Task(id=f"t{i}", prompt=({"role": "user", "content": f"{i}+1="},), answer=str(i + 1)) for i in range(3)]
REWARDS = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def answer(reward, training=None, text="x"):
    return Answer(reward=reward, training_reward=training, length=len(text), truncated=reward is None, text=text)


ANSWERS = [[answer(1.0, 0.5, "2"), answer(None)], [answer(0.0), answer(0.25)], [answer(1.0), answer(1.0, 1.0, "drei")]]


def test_what_was_written_is_read_by_problem_and_in_order(tmp_path):
    evaluations.write(tmp_path, "eval", 20, TASKS, ANSWERS, texts=True)
    found = evaluations.read(tmp_path, "eval", 20)
    assert found is not None
    assert [task_id for task_id, _ in found] == ["t0", "t1", "t2"]
    assert [digest(task) for task in TASKS] == [problem for _, problem in found]
    assert [[(a.reward, a.training_reward, a.length, a.truncated) for a in group] for group in found.values()] == [
        [(a.reward, a.training_reward, a.length, a.truncated) for a in group] for group in ANSWERS
    ]
    rows = pq.read_table(tmp_path / "evaluations" / "step-20.parquet").to_pylist()
    assert [row["completion"] for row in rows] == ["2", "x", "x", "x", "x", "drei"]
    assert [row["sample"] for row in rows] == [0, 1] * 3


def test_texts_stay_away_where_completions_are_not_kept(tmp_path):
    evaluations.write(tmp_path, "test", 20, TASKS, ANSWERS, texts=False)
    rows = pq.read_table(tmp_path / "evaluations" / "test-20.parquet").to_pylist()
    assert {row["completion"] for row in rows} == {None}


def test_the_same_answers_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        evaluations.write(tmp_path / name, "eval", 1, TASKS, ANSWERS, texts=True)
    one, other = (next((tmp_path / name / "evaluations").iterdir()).read_bytes() for name in ("a", "b"))
    assert one == other


def test_an_evaluation_that_could_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    evaluations.write(tmp_path, "eval", 1, TASKS, ANSWERS, texts=True)
    before = (tmp_path / "evaluations" / "step-1.parquet").read_bytes()

    def torn(table, path, **options):
        path.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", torn)
    with pytest.raises(OSError, match="No space"):
        evaluations.write(tmp_path, "eval", 1, TASKS, [[answer(0.0)]] * 3, texts=True)
    assert (tmp_path / "evaluations" / "step-1.parquet").read_bytes() == before


def test_what_is_not_there_is_none_and_what_is_damaged_is_named(tmp_path):
    assert evaluations.read(tmp_path, "eval", 1) is None
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "step-1.parquet").write_text("rubbish")
    with pytest.raises(ConfigError, match=r"step-1\.parquet cannot be read"):
        evaluations.read(tmp_path, "eval", 1)


def test_two_tasks_are_one_problem_only_with_the_same_words_and_the_same_answer():
    task = TASKS[0]
    assert digest(Task(id="other", prompt=task.prompt, answer=task.answer)) == digest(task)
    system = {"role": "system", "content": "Think."}
    for other in (Task(id="t0", prompt=task.prompt, answer="9"), Task(id="t0", prompt=(system, *task.prompt))):
        assert digest(other) != digest(task)


def test_cutting_back_forgets_later_evaluations_and_from_the_start_all(tmp_path):
    for part, steps in (("eval", (0, 10, 20)), ("test", (20,))):
        for step in steps:
            evaluations.write(tmp_path, part, step, TASKS, ANSWERS, texts=True)
    evaluations.cut_back(tmp_path, 10)
    assert sorted(file.name for file in (tmp_path / "evaluations").iterdir()) == ["step-0.parquet", "step-10.parquet"]
    evaluations.cut_back(tmp_path, 0)
    assert list((tmp_path / "evaluations").iterdir()) == []


@given(st.lists(st.lists(REWARDS, min_size=2, max_size=2), min_size=1, max_size=6))
def test_a_metric_is_the_mean_of_what_is_kept_of_its_tasks(rewards):
    """Against a count by hand: a problem's mean over its scored completions; both, either or none of two right."""
    answers = [[answer(reward) for reward in group] for group in rewards]
    measured = measure(answers, 2)
    means = [sum(known) / len(known) for group in rewards if (known := [r for r in group if r is not None])]
    assert [value for value in of_tasks("score", answers) if value is not None] == pytest.approx(means)
    assert measured.get("score") == (pytest.approx(sum(means) / len(means)) if means else None)
    both = [any(r > 0.5 for r in group) for group in rewards if None not in group]
    assert of_tasks("pass_at_2", answers) == [
        None if None in group else float(any(r > 0.5 for r in group)) for group in rewards
    ]
    assert measured.get("pass_at_2") == (pytest.approx(sum(both) / len(both)) if both else None)
