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

HEAVY = ["torch", "transformers", "trl", "mlflow", "numpy", "hydra", "omegaconf", "rich", "retrain.config"]
REPOSITORY = Path(__file__).parents[2]
TOPICS = REPOSITORY / "retrain" / "manual" / "topics"


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
        (["sepia"], f'did you mean "sepa"?\n  {", ".join(manual.topics())}\n'),
        (["se"], '"se" is not a topic of the manual'),
        (["lora"], 'retrain man --search "lora" looks for it everywhere'),
        (["--topic", "nothing-like-it"], f"  {', '.join(manual.topics())}\n"),
        (["--topic"], "--topic needs a value"),
        (["--topic="], "--topic needs a value"),
        ([""], "a topic needs a name"),
        (["sepa", "advantages"], 'one topic, got 2: sepa advantages\n  retrain man --search "sepa advantages"'),
        (["sepa", "--topic", "advantages"], "one topic, got 2: sepa advantages"),
        (["--list-topics", "sepa"], "leave sepa out"),
        (["--check", "sepa"], "leave sepa out"),
        (["--search", "a", "--topic", "sepa"], "leave sepa out"),
        (["--check", "--sync"], "does one thing, got --check and --sync"),
        (["--search"], "--search needs a value"),
        (["--search", ""], "--search needs words"),
        (["--path", "sepia"], 'did you mean "sepa"?'),
        (["--serach", "x"], "did you mean --search?"),
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


# --- searching --------------------------------------------------------------------------------------------------------


def test_what_is_found_comes_with_what_to_type_the_best_first(capsys):
    assert main(["man", "--search", "lora", "rank"]) == 0
    shown = capsys.readouterr()
    first, *_ = shown.out.split("\n\n")
    head, text, command = first.splitlines()
    topic = re.fullmatch(r"model\.lora_rank  \(key, --lora-rank, (\S+) › \[model\]\)", head)
    assert "rank of the LoRA adapter" in text
    assert topic is not None
    assert command == f"    retrain man {topic[1]}"
    assert "`lora_rank = " in manual.read(topic[1])
    assert shown.err == ""


def test_what_is_not_there_is_exit_code_1_as_of_grep(capsys):
    assert main(["man", "--search", "zzyzzx"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert '"zzyzzx" is nowhere in the manual' in shown.err


def test_a_misspelt_word_is_said(capsys):
    assert main(["man", "--search", "temprature"]) == 0
    assert '"temprature" is nowhere in the manual; looked for temperatur' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["sepa"], ["name", "about", "text", "source"]),
        ([], ["topics"]),
        (["--list-topics"], ["topics"]),
        (["--search", "nan"], ["query", "replaced", "hits"]),
        (["--path"], ["path"]),
        (["--check"], ["stale"]),
        (["--sync"], ["changed"]),
    ],
)
def test_everything_is_one_json_document(arguments, keys, capsys):
    assert main(["man", *arguments, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == keys


def test_the_json_of_topics_and_hits(capsys):
    main(["man", "--json"])
    [sepa] = [topic for topic in json.loads(capsys.readouterr().out)["topics"] if topic["name"] == "sepa"]
    main(["man", "--json", "--topic", "sepa"])
    document = json.loads(capsys.readouterr().out)
    assert sepa == {key: document[key] for key in ("name", "about", "source")}
    assert document["text"] == Path(document["source"]).read_text(encoding="utf-8") == manual.read("sepa")
    main(["man", "--json", "--search", "which gpu"])
    first = json.loads(capsys.readouterr().out)["hits"][0]
    topic = first.pop("topic")
    assert "`devices = " in manual.read(topic)
    assert first.pop("text").startswith("auto: the first GPU")
    assert first == {
        "kind": "key",
        "name": "backend.devices",
        "heading": "[backend]",
        "command": f"retrain man {topic}",
    }


def test_nothing_found_is_a_document_too(capsys):
    assert main(["man", "--json", "--search", "zzyzzx"]) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {"query": "zzyzzx", "replaced": {"zzyzzx": ""}, "hits": []}


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
    man.main([topic, "--no-pager"])
    return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


@pytest.mark.parametrize("topic", manual.topics())
@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (300, 100)])
def test_a_terminal_gets_text_laid_out_to_its_width(topic, columns, widest, monkeypatch):
    shown = on_a_terminal(topic, columns, monkeypatch)
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= widest
    assert not any(line.startswith(("#", "|", "```", "<!--")) for line in lines)


def test_a_placeholder_in_a_key_s_meaning_is_not_lost_as_html(monkeypatch):
    assert "outputs/<toml name>/<time>" in on_a_terminal("configuration", 300, monkeypatch)


@pytest.mark.parametrize("topic", manual.topics())
def test_formulas_and_examples_fit_a_terminal_of_80_columns(topic):
    """rich breaks longer lines of code, and puts a space on either side."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", manual.read(topic), re.MULTILINE | re.DOTALL)
    assert max(cell_len(line) for block in blocks for line in block.splitlines()) <= 78


@pytest.mark.parametrize(
    "arguments",
    [
        ["man"],
        ["man", "configuration"],
        ["man", "nothing"],
        ["man", "--search", "lora rank"],
        ["man", "--json", "sepa"],
    ],
    ids=" ".join,
)
def test_reading_and_searching_import_neither_the_config_nor_rich(arguments, tmp_path):
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
