"""Reading a file of one's own: what it gives, and every way it can be wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.config.schema import Data
from retrain.data import jsonl
from retrain.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def from_content(content, **keys):
        file = tmp_path / "file.jsonl"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return jsonl.load(Data(source="jsonl", path=str(file), **keys)).tasks

    return from_content


@pytest.fixture
def problems(load):
    def of(content, **keys):
        with pytest.raises(ConfigError) as caught:
            load(content, **keys)
        return [f"{p.where.rpartition('/')[2]}: {p.message}" for p in caught.value.problems]

    return of


def test_a_row_becomes_a_task_and_keeps_its_other_columns(load):
    (task,) = load('{"question": "17+25=", "answer": "42", "level": 3, "tags": ["a"]}\n')
    assert task.id == "file-1"
    assert task.prompt == ({"role": "user", "content": "17+25="},)
    assert task.answer == "42"
    assert task.info == {"level": 3, "tags": ["a"]}


def test_the_columns_can_be_named(load):
    (task,) = load('{"problem": "1+1=", "final": "2"}', prompt_key="problem", answer_key="final")
    assert (task.prompt[0]["content"], task.answer) == ("1+1=", "2")


@pytest.mark.parametrize("written", ["36", "1.50", "-0", "1e5", "12345678901234567890123", "0.1000000000000000055511"])
def test_a_number_is_taken_as_it_is_written(load, written):
    (task,) = load(f'{{"question": "?", "answer": {written}, "level": 1.50}}')
    assert task.answer == written
    assert task.info == {"level": 1.5}


def test_a_prompt_may_be_a_list_of_messages(load):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]
    (task,) = load(json.dumps({"question": messages, "answer": "2"}))
    assert list(task.prompt) == messages


def test_rows_may_have_ids_of_their_own(load):
    rows = '{"id": "ann", "question": "?", "answer": "1"}\n{"id": 7, "question": "?", "answer": "1"}\n'
    assert [task.id for task in load(rows)] == ["ann", "7"]


@given(st.lists(st.tuples(st.text().filter(str.strip), st.text()), min_size=1, max_size=5))
def test_any_text_comes_back_as_it_went_in(tmp_path_factory, rows):
    """Line separators inside a text (U+2028, U+0085, \\r) do not end a line of JSON."""
    file = tmp_path_factory.mktemp("any") / "d.jsonl"
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in rows]
    file.write_bytes("\n".join(lines).encode())
    tasks = jsonl.load(Data(source="jsonl", path=str(file))).tasks
    assert [(task.prompt[0]["content"], task.answer) for task in tasks] == rows


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_fine(load):
    content = b'\xef\xbb\xbf{"question": "a", "answer": "1"}\r\n\r\n{"question": "b", "answer": "2"}\r\n'
    assert [task.answer for task in load(content)] == ["1", "2"]


GOOD = '{"question": "?", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": "?"}', 'no "answer"'),
        (b'{"question": null, "answer": "1"}', 'no "question"'),
        (b'{"question": "  ", "answer": "1"}', '"question" is empty'),
        (b'{"question": 5, "answer": "1"}', '"question" is 5, text or a list of chat messages is needed'),
        (b'{"question": "?", "answer": true}', '"answer" is true, text or a number is needed'),
        (b'{"question": "?", "answer": ["1"]}', '"answer" is ["1"], text or a number is needed'),
        (b'{"question": [], "answer": "1"}', '"question" does not end with a message of the user'),
        (b'{"question": [{"role": "user"}], "answer": "1"}', '"question": message 1 is {"role": "user"}'),
        (
            b'{"question": [{"role": "assistant", "content": "x"}], "answer": "1"}',
            '"question" does not end with a message of the user',
        ),
        (b'["?", "1"]', '["?", "1"] is not an object'),
        (b'{"question": "?", "answer": NaN}', "NaN is not a JSON number"),
        (b'{"question": "?" "answer": "1"}', "not JSON: Expecting ',' delimiter at column 18"),
        (b'{"question": "caf\xe9", "answer": "1"}', "not UTF-8: 0xe9 is byte 18 of the line"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_reason(problems, line, said):
    assert problems(GOOD.encode() * 2 + line + b"\n" + GOOD.encode()) == [f"file.jsonl:3: {said}"]


def test_an_integer_of_thousands_of_digits_is_a_wrong_row_not_a_crash(problems):
    (said,) = problems(GOOD + '{"question": "?", "answer": ' + "9" * 5000 + "}")
    assert said.startswith("file.jsonl:2: ")


def test_all_wrong_rows_are_reported_at_once_up_to_twenty(problems):
    three = problems(GOOD + '{"question": "?"}\n{"answer": "1"}\nno\n')
    assert [said.partition(": ")[0] for said in three] == ["file.jsonl:2", "file.jsonl:3", "file.jsonl:4"]
    many = problems(GOOD + '{"question": "?"}\n' * 55)
    assert many[0] == "file.jsonl: 55 rows are wrong; the first 20 are listed"
    assert [said.partition(": ")[0] for said in many[1:]] == [f"file.jsonl:{line}" for line in range(2, 22)]


def test_a_column_that_no_row_has_is_one_problem_that_lists_the_columns(problems):
    rows = '{"problem": "?", "solution": "1"}\n' * 30
    assert problems(rows, answer_key="final") == [
        'file.jsonl: no row has "final"; the columns are problem, solution',
        'file.jsonl: no row has "question"; the columns are problem, solution',
    ]


def test_a_repeated_id_names_both_lines(problems):
    row = '{"id": "a", "question": "?", "answer": "1"}\n'
    assert problems(row + GOOD + row) == ['file.jsonl:3: "id" "a" is also that of line 1']


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_an_error(problems, content):
    assert problems(content) == ["file.jsonl: the file has no rows"]


@pytest.mark.parametrize("path", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read_is_an_error_with_the_key(path):
    with pytest.raises(ConfigError, match=r'data.path = ".*" cannot be read: (No such file|Is a directory)') as caught:
        jsonl.load(Data(source="jsonl", path=path))
    assert caught.value.problems[0].key == "data.path"


def test_an_empty_path_and_keys_that_mean_nothing_are_errors():
    with pytest.raises(ConfigError) as caught:
        jsonl.load(Data(source="jsonl", split="test", name="x"))
    assert [problem.key for problem in caught.value.problems] == ["data.name", "data.path", "data.split"]
