"""Whatever is typed, the answer is a config or an error of our tree that names what is wrong: never another exception.

Cases are drawn from the schema: a section, a key and a value that are right, misspelt, of another type, out of range or
nonsense; campaigns; group files; bytes for a TOML; words for a command line. What was found on the way stands among the
plain cases of test_errors.py.
"""

import contextlib
import datetime as dt
import io
import string
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.cli.campaign import planned
from retrain.cli.commands import COMMANDS
from retrain.cli.main import main
from retrain.config import compose
from retrain.config.layers import CHOICES
from retrain.config.names import FLAGS
from retrain.config.schema import CAMPAIGN_KEYS, KEYS, SECTIONS
from retrain.errors import ConfigError

CASES = 900  # of each of the six kinds; 5,400 in all


def fuzzed(cases: int = CASES):
    """Settings of a fuzz test: always the same cases, and no limit on the time of one."""
    return settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONELY", "x")
    return tmp_path


# --- what may be typed ----------------------------------------------------------------------------------------------

NASTY = [
    "",
    " ",
    "???",
    "${",
    "${training.lr}",
    "${nothing}",
    "${oc.env:NOT_SET_HERE}",
    "${oc.env:LONELY}",
    "it's",
    "é",
]
NASTY += [
    "~/runs",
    "a,b",
    "1e5",
    "null",
    "true",
    "[",
    "{a:",
    "\\",
    '"',
    "'",
    "a=b",
    "=",
    "\x00",
    "\n",
    "-1",
    "--lr",
    "😀",
]
texts = st.sampled_from(NASTY) | st.text(max_size=12)
numbers = st.integers(-(2**70), 2**70) | st.integers(-3, 600) | st.floats()
dates = st.dates(dt.date(1990, 1, 1)) | st.times() | st.datetimes(dt.datetime(1990, 1, 1))
scalars = texts | numbers | st.booleans() | dates
names = st.text(string.ascii_letters + string.digits + "_-.~", min_size=1, max_size=12) | st.text(
    min_size=1, max_size=6
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)


@st.composite
def misspelt(draw, known):
    """A known name with one letter dropped, doubled, swapped or replaced."""
    name = draw(st.sampled_from(sorted(known)))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(string.ascii_lowercase + "_-"))
    return draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + name[at] + name[at:],
                name[:at] + letter + name[at + 1 :],
                name + "s",
            ]
        ).filter(bool)
    )


sections = st.sampled_from([*SECTIONS, "campaign", "defaults"]) | misspelt(SECTIONS) | names
leaves = st.sampled_from([key.name for key in [*KEYS.values(), *CAMPAIGN_KEYS.values()]] + list(CHOICES))
keys = leaves | misspelt({key.name for key in KEYS.values()}) | names


@st.composite
def assignments(draw):
    """A section, a key and a value; half of the time the key belongs to the section."""
    if draw(st.booleans()):
        key = KEYS[draw(st.sampled_from(sorted(KEYS)))]
        return key.section, key.name, draw(anything)
    return draw(sections), draw(keys), draw(anything)


# --- the claims -----------------------------------------------------------------------------------------------------


def said_against(call):
    """Return what a call says against its input, all of it as one text; nothing where it takes it."""
    try:
        call()
    except ConfigError as error:
        refused = error
    else:
        return ""
    assert refused.exit_code == 2
    assert all(problem.message.strip() for problem in refused.problems)
    lines = [problem.line for problem in refused.problems if problem.file == "mini.toml"]
    assert lines == sorted(lines)
    return str(refused)


def refusal(*arguments):
    return said_against(lambda: compose(Path("mini.toml"), arguments))


def names_one_of(said, *words):
    """Whether a refusal shows one of these words: blank ones in quotes or brackets, unprintable ones in its own way."""
    return any(
        word.strip() in said if word.strip() else f'"{word}"' in said or f"[{word}]" in said
        for word in words
        if word.isprintable()
    ) or not all(map(str.isprintable, words))


@fuzzed()
@given(assignments())
def test_any_value_of_any_key_is_taken_or_refused_by_name(assignment):
    section, name, value = assignment
    Path("mini.toml").write_text(tomli_w.dumps({section: {name: value}}), encoding="utf-8")
    said = refusal()
    known = {*SECTIONS, "campaign", "defaults"}
    assert not said or names_one_of(said, name if section in known else section), said


conditions = st.dictionaries(keys | st.sampled_from(["name", "overrides", "conditions"]), anything, max_size=3)


@fuzzed()
@given(
    st.dictionaries(st.sampled_from(sorted(CAMPAIGN_KEYS)) | keys, anything, max_size=2),
    st.lists(conditions, max_size=3),
)
def test_any_campaign_is_planned_or_refused_by_its_file(table, cells):
    table = table | ({"conditions": cells} if cells else {}) | {"launcher": "local"}
    Path("mini.toml").write_text(tomli_w.dumps({"campaign": table}), encoding="utf-8")
    said = said_against(lambda: planned(Path("mini.toml"), []))
    assert not said or "mini.toml" in said or names_one_of(said, *table), said


@fuzzed()
@given(st.sampled_from(CHOICES), st.dictionaries(keys | sections, anything, max_size=3))
def test_any_group_file_is_taken_or_refused_with_its_name(group, body):
    place = Path("conf", group)
    place.mkdir(parents=True, exist_ok=True)
    (place / "mine.toml").write_text(tomli_w.dumps(body), encoding="utf-8")
    Path("mini.toml").write_text(f'[defaults]\n{group} = "mine"\n', encoding="utf-8")
    said = refusal()
    assert not said or f"conf/{group}/mine.toml" in said, said


FRAGMENTS = [
    "[training]",
    "[[campaign.conditions]]",
    "[campaign]",
    "[",
    "]",
    "]]",
    "lr",
    "training.lr",
    "=",
    " = ",
    "1e-5",
]
FRAGMENTS += [
    "\n",
    "\r\n",
    '"',
    "'",
    '"""',
    "{",
    "}",
    ",",
    "#",
    "extends",
    '"mini.toml"',
    "defaults",
    "true",
    "2024-01-01",
    "\ufeff",
]


@fuzzed()
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(lambda parts: "".join(parts).encode())
)
def test_any_bytes_for_a_toml_are_read_or_refused_with_the_file(content):
    Path("mini.toml").write_bytes(content)
    said = refusal()
    assert not said or "mini.toml" in said, said


flags = st.sampled_from(sorted(FLAGS)) | misspelt(FLAGS) | names.map("--{}".format)
dotted = (
    st.sampled_from(sorted(KEYS))
    | misspelt(KEYS)
    | st.builds("{}.{}".format, sections, keys)
    | st.sampled_from(CHOICES)
)
words = st.one_of(
    st.tuples(flags, texts),
    st.builds("{}={}".format, flags, texts).map(lambda word: (word,)),
    st.builds("{}{}={}".format, st.sampled_from(["", "", "+", "++", "~"]), dotted, texts).map(lambda word: (word,)),
    st.tuples(texts | names | flags),
)


@fuzzed()
@given(words)
def test_any_argument_is_taken_or_refused_by_name(typed):
    Path("mini.toml").write_text("", encoding="utf-8")
    said = refusal(*typed)
    head = typed[0].partition("=")[0].lstrip("+~ ")
    assert not said or names_one_of(said, head, *typed), said


QUIET = sorted(COMMANDS.keys() - {"ui", "doctor"})  # the two that talk to servers; no --watch, which never ends
own_flags = st.sampled_from(sorted({flag for command in COMMANDS.values() for flag in command.flags} - {"--watch"}))
inert = st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=8
)  # no path out of the folder


@fuzzed()
@given(
    st.sampled_from(QUIET) | misspelt(COMMANDS) | inert,
    st.lists(own_flags | inert | inert.map("--{}".format) | st.sampled_from(sorted(KEYS)), max_size=3),
)
def test_any_command_line_ends_with_an_exit_code(command, arguments):
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as err,
    ):
        code = main([command, *arguments])
        err.seek(0)
        said = err.read()
    assert code in (0, 1, 2)
    assert code == 0 or said.startswith(("error: ", "{"))
    assert "Traceback" not in said


def test_a_process_ends_as_the_function_does(folder):
    """Some of the same through real processes: no traceback, exit code 2, and nothing on disk but the TOML."""
    for case in range(50):
        random = Random(case)
        key = random.choice(list(KEYS.values()))
        name = random.choice([key.name, key.name[:-1] + "q", key.name + "_"])
        wrong = random.choice(["nan", "[[1]]", "{ a = inf }", '"???"', "1979-05-27", "-1e400", "truee", "0x"])
        (folder / "mini.toml").write_text(f"[{key.section}]\n{name} = {wrong}\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "retrain.cli.main", "mini.toml"],
            cwd=folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (2, ""), (case, done.stderr)
        assert "mini.toml:2: " in done.stderr
        assert name in done.stderr
        assert "Traceback" not in done.stderr
        assert [file.name for file in folder.iterdir()] == ["mini.toml"]
