"""`retrain man`: the topics, their generated parts, and how they are shown."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from retrain import manual
from retrain.cli import man
from retrain.cli.main import main
from retrain.config.schema import KEYS

HEAVY = ["torch", "transformers", "trl", "mlflow", "numpy", "hydra", "omegaconf"]
REPOSITORY = Path(__file__).parents[2]
TOPICS = REPOSITORY / "retrain" / "manual" / "topics"


def section_of(dotted: str, text: str) -> str:
    """Return the part of the reference under the heading of a key's section."""
    return text.partition(f"### [{dotted.partition('.')[0]}]\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("arguments", [["man"], ["man", "--list-topics"]])
def test_topics_are_listed_with_a_line_each(arguments, capsys):
    assert main(arguments) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(path.stem for path in TOPICS.glob("*.md"))
    assert all(len(line.split()) > 3 for line in listed)


def test_every_topic_begins_with_its_name_and_what_it_is_about():
    for topic, about in manual.topics().items():
        assert manual.read(topic).startswith(f"# {topic}: {about}\n")
        assert about


@pytest.mark.parametrize("arguments", [["man", "sepa"], ["man", "--topic", "sepa"], ["man", "--topic=sepa"]])
def test_a_topic_in_a_pipe_is_markdown(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{manual.read('sepa').rstrip()}\n"
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sepia"], 'did you mean "sepa"?\n  advantages, campaigns, '),
        (["--topic", "nothing-like-it"], "advantages, campaigns, "),
        (["--topic"], "--topic needs a value"),
        (["sepa", "advantages"], "one topic, got 2: sepa advantages"),
        (["sepa", "--topic", "advantages"], "one topic, got 2: sepa advantages"),
        (["--list-topics", "sepa"], "leave sepa out"),
        (["--search", "lambda"], "--search is not a flag of retrain man"),
        (["../manual"], "is not a topic"),
    ],
)
def test_what_it_cannot_show_is_an_error(arguments, said, capsys):
    assert main(["man", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_the_topic_that_an_error_names_is_there(tmp_path, capsys):
    bad = tmp_path / "bad.toml"
    bad.write_text("[training]\nmax_stepz = 3\n")
    assert main(["explain", str(bad)]) == 2
    [command] = re.findall(r"retrain (man .*)", capsys.readouterr().err)
    assert main(command.split()) == 0
    assert "max_steps" in capsys.readouterr().out


# --- the generated reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dotted", KEYS)
def test_every_key_is_in_the_reference_with_its_meaning(dotted):
    text = manual.read("configuration")
    assert manual.KEYS_MARK not in text
    name, meaning = KEYS[dotted].name, KEYS[dotted].help
    [line] = [line for line in section_of(dotted, text).splitlines() if line.startswith(f"- `{name} = ")]
    assert line.replace("\\<", "<").endswith(f": {meaning}")


@pytest.mark.parametrize(
    ("dotted", "line"),
    [
        ("training.group_size", "- `group_size = 16` (a whole number of at least 2): completions per prompt"),
        ("training.shuffle", "- `shuffle = true` (true or false): draw a new order for each pass over the data"),
        ("sepa.schedule", '- `schedule = "linear"` (linear, auto): linear in time, or auto: faster once uncertainty'),
        ("algorithm.advantage_mode", '- `advantage_mode = "grpo"` (grpo, maxrl, rloo, reinforce_pp; or `module:attr'),
        ("training.top_p", "- `top_p = 1.0` (a number above 0 and up to 1): sample from the smallest set of tokens"),
        ("logging.log_dir", r'- `log_dir = ""` (text): the run directory; empty: outputs/\<toml name>/\<time>'),
    ],
)
def test_a_key_s_line_says_its_default_and_what_it_takes(dotted, line):
    assert f"\n{line}" in section_of(dotted, manual.read("configuration"))


# --- on a terminal ----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(topic: str, columns: int, monkeypatch) -> str:
    """Return what a terminal of a width shows, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    man.main([topic])
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


@pytest.mark.parametrize("topic", manual.topics())
@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (300, 100)])
def test_a_terminal_gets_text_laid_out_to_its_width(topic, columns, widest, monkeypatch):
    shown = on_a_terminal(topic, columns, monkeypatch)
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= widest
    assert not any(line.startswith(("#", "|", "```")) for line in lines)


def test_a_placeholder_in_a_key_s_meaning_is_not_lost_as_html(monkeypatch):
    assert "outputs/<toml name>/<time>" in on_a_terminal("configuration", 300, monkeypatch)


@pytest.mark.parametrize("topic", manual.topics())
def test_formulas_and_examples_fit_a_terminal_of_80_columns(topic):
    """rich breaks longer lines of code, and puts a space on either side."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", manual.read(topic), re.MULTILINE | re.DOTALL)
    assert max(cell_len(line) for block in blocks for line in block.splitlines()) <= 78


@pytest.mark.parametrize("arguments", [["man"], ["man", "configuration"], ["man", "nothing"]])
def test_the_manual_imports_neither_torch_nor_hydra(arguments, tmp_path):
    program = (
        "import sys, json; from retrain.cli.main import main; main(sys.argv[2:]); "
        f"json.dump([m for m in {HEAVY!r} if m in sys.modules], open(sys.argv[1], 'w'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "seen.json"), *arguments]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert json.loads((tmp_path / "seen.json").read_text()) == []


def test_docs_links_to_every_topic():
    for topic in manual.topics():
        linked = REPOSITORY / "docs" / f"{topic}.md"
        assert linked.is_symlink()
        assert not linked.readlink().is_absolute()
        assert linked.resolve() == TOPICS / f"{topic}.md"
