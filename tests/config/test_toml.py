import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.config import toml

SAMPLE = '''# a comment
title = "x"  # 2

[training]
"quoted key" = 1
a.b.c = 2
stop = [
  "]", # not the end
  "fake = 1",
]
text = """
lr = 3
[not.a.table]
\\""" still text
"""
raw = \'\'\'
x = 1\'\'\'
last = { inside = "}", more = [1, 2] }
[[campaign.conditions]]
name = "one"
[[campaign.conditions]]
name = "two"
[campaign.conditions.sub]
deep = 1
["odd # name".x]
y = 1
'''


def test_every_key_has_the_line_that_it_is_written_on():
    tomllib.loads(SAMPLE)
    lines = toml.key_lines(SAMPLE)
    expected = {
        ("title",): 2,
        ("training",): 4,
        ("training", "quoted key"): 5,
        ("training", "a", "b", "c"): 6,
        ("training", "stop"): 7,
        ("training", "text"): 11,
        ("training", "raw"): 16,
        ("training", "last"): 18,
        ("campaign", "conditions", 0, "name"): 20,
        ("campaign", "conditions", 1, "name"): 22,
        ("campaign", "conditions", 1, "sub", "deep"): 24,
        ("odd # name", "x", "y"): 26,
    }
    assert {place: lines[place] for place in expected} == expected
    assert not any(
        "fake" in place or "not" in place or "lr" in place or "x" in place[1:2]
        for place in lines
        if place[0] == "training"
    )


def paths(table, before=()):
    for name, value in table.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=12)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
TABLES = st.dictionaries(NAMES, st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=5)


@given(TABLES)
def test_each_line_found_is_the_one_that_assigns_the_key(table):
    """The reference is tomllib itself: without that line on, the text no longer gives the key."""
    text = toml.write(table)
    lines = toml.key_lines(text)
    assert {place for place in lines if len(place) <= 2} == set(paths(table))
    for place, number in lines.items():
        before, line = "\n".join(text.split("\n")[: number - 1]), text.split("\n")[number - 1]
        assert place not in set(paths(tomllib.loads(before)))
        assert not place[-1].isalpha() or place[-1] in line


@given(TABLES)
def test_what_is_written_is_read_back(table):
    assert tomllib.loads(toml.write(table)) == table


@pytest.mark.parametrize("value", [None, object(), {1, 2}])
def test_what_toml_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="cannot be written as TOML"):
        toml.write({"a": {"b": value}})


@pytest.mark.parametrize(
    ("text", "line", "fix"),
    [
        ("[model]\nmodel = Qwen/Qwen3-4B # x\n", 2, 'text needs quotes: model = "Qwen/Qwen3-4B"'),
        ("[model]\nmodel = ~/models/a\n", 2, 'text needs quotes: model = "~/models/a"'),
        ('[model]\nmodel = "Qwen\n', 2, "not closed in this line"),
        ("[training]\nlr = 1\nlr = 2\n", 3, "already in line 2"),
        ("[training]\nlr = 1\n[training]\n", 3, "already in line 1"),
        ("[training]\nshuffle = True\n", 2, "shuffle = true"),
        ("[training]\nshuffle = no\n", 2, "shuffle = false"),
        ("[training]\nstop = None\n", 2, "TOML has no null: leave stop out"),
        ("[training]\nlr: 3\n", 2, "lr = 3"),
        ("[training]\nlr = .5\n", 2, "digits on both sides"),
        ("[training]\nlr = 1.\n", 2, "digits on both sides"),
        ("[training]\nseed = 042\n", 2, "seed = 42"),
        ("[training]\nlr =\n", 2, 'lr = ""'),
        ("[training\nlr = 3\n", 1, "close the bracket"),
        ('[training]\nstop = ["a",\n', 2, "close the bracket"),
    ],
)
def test_a_syntax_error_shows_the_line_and_the_fix(project, text, line, fix):
    project.write("mini.toml", text)
    [problem] = project.problems()
    assert problem.where == f"mini.toml:{line}"
    assert text.splitlines()[line - 1] in problem.hint
    assert fix in problem.hint


def test_a_byte_order_mark_is_no_syntax_error(project):
    (project.root / "mini.toml").write_bytes(b"\xef\xbb\xbf[training]\nlr = 1\n")
    assert project.value("training.lr") == 1.0


def test_a_nested_dotted_key_of_a_section_is_read_as_its_section(project):
    project.write("mini.toml", "training.lr = 1\ntraining.seed = 2\n")
    assert str(project.compose().origins["training.seed"]) == "mini.toml:2"
