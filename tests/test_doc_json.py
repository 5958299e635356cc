"""The manual's topic `json` lists every field of every document, and none that is not there."""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path

import pytest

from retrain import replay, rollouts
from retrain.cli import eval as eval_command
from retrain.cli import fetch, plugins
from retrain.cli.commands import COMMANDS
from retrain.cli.help import command_help
from retrain.cli.main import main
from tests.campaign_folder import make_campaign, make_run
from tests.cli.test_json_documents import a_search
from tests.documents import TOPICS
from tests.made_runs import write_campaign

TOPIC = (TOPICS / "json.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def part(section: str) -> str:
    return TOPIC.partition(f"\n## {section}\n")[2].partition("\n## ")[0]


def documented(section: str, head: str = "field") -> set[str]:
    """Return the fields that the tables of a section list, as paths; `head` is what their first column is called."""
    shape = rf"^\| {re.escape(head)} \| type \| is \|\n\|[-|]+\n((?:\|.*\n)+)"
    rows = "".join(re.findall(shape, part(section), re.MULTILINE)).splitlines()
    return {path for row in rows for path in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def listed_below(section: str, field: str) -> set[str]:
    """Return the fields that are named in the row of the table that holds them."""
    [row] = re.findall(rf"^\| `{re.escape(field)}` \|.*$", part(section), re.MULTILINE)
    return set(re.findall(r"`([a-z_]+)`", row.split(" | ")[2]))


def printed(capsys, *arguments: str):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def tops(paths: set[str]) -> set[str]:
    return {re.split(r"[.\[]", path)[0] for path in paths}


def below(paths: set[str], table: str) -> set[str]:
    return tops({path.removeprefix(f"{table}.") for path in paths if path.startswith(f"{table}.")})


def test_explain_of_a_run(capsys):
    Path("mini.toml").write_text('[defaults]\nexperiment = "demo"\n')
    document = printed(capsys, "explain", "mini.toml")
    said = documented("explain") - {path for path in documented("explain") if path.startswith(("derived.", "runs[]"))}
    assert tops(said) == set(document)
    assert below(said, "sources") == set(document["sources"])
    assert below(said, "sources.keys.KEY") == set(document["sources"]["keys"]["training.lr"])
    assert listed_below("explain", "runs") == set(document["runs"][0])
    derived = documented("explain", "field of `derived`")
    assert tops(derived) == set(document["derived"])
    assert below(derived, "model") == set(document["derived"]["model"])
    memory = documented("explain", "field of `memory`")
    assert tops(memory) == set(document["derived"]["memory"])
    assert listed_below("explain", "phases") - {"train"} == set(document["derived"]["memory"]["phases"][0])
    assert listed_below("explain", "phases[].components") == set(
        document["derived"]["memory"]["phases"][0]["components"][0]
    )


def test_explain_of_a_campaign(capsys):
    Path("abl.toml").write_text('[defaults]\nexperiment = "demo"\n[campaign]\nmin_effect = 0.1\n')
    document = printed(capsys, "explain", "abl.toml")
    said = documented("explain")
    assert {*document} == tops(said - {"derived.sentence"}) | {"campaign"}
    assert below(said, "derived") == set(document["derived"])
    assert below(said, "derived.detectable") == set(document["derived"]["detectable"])
    assert listed_below("explain", "derived.conditions") == set(document["derived"]["conditions"][0])
    assert listed_below("explain", "runs[]") == set(document["runs"][0])


def test_explain_and_compare_of_a_search(capsys):
    pytest.importorskip("optuna")
    space = '[campaign]\nsweeper = "optuna"\n[campaign.space]\nalgorithm = ["grpo", "maxrl"]\n'
    Path("s.toml").write_text(f'[defaults]\nexperiment = "demo"\n{space}')
    derived = printed(capsys, "explain", "s.toml")["derived"]
    assert tops(documented("explain", "field of a search")) == set(derived)
    assert listed_below("explain", "space") == set(derived["space"][0])
    a_search(Path())
    ranking = printed(capsys, "compare", "search")
    assert tops(documented("compare", "field of a search")) == set(ranking)
    assert listed_below("compare", "trials") == set(ranking["trials"][0])


def test_the_help_of_every_command_with_a_document_says_where_its_fields_are_told():
    for name, command in COMMANDS.items():
        if "--json" in command.flags:
            assert "fields: retrain man --topic json" in command_help(name)
            assert part(name), f"the topic has nothing about {name}"


def test_status(capsys):
    make_run("outputs/mini/2025-06-01_12-00-00")
    make_campaign("outputs/abl/2025-06-01_12-00-00", {"grpo": ["done", "planned"], "maxrl": ["done", "running"]})
    document = printed(capsys, "status")
    assert documented("status") == set(document)
    of_run, of_campaign = documented("status", "field of a run"), documented("status", "field of a campaign")
    assert tops(of_run) == set(document["runs"][0])
    assert tops(of_campaign) == set(document["campaigns"][0])
    more = {path.removeprefix("runs[].") for path in of_campaign if path.startswith("runs[].")}
    assert tops(of_run) | more == set(document["campaigns"][0]["runs"][0])


def test_compare(capsys):
    pytest.importorskip("scipy")
    scores = {"grpo": dict.fromkeys(range(4), 0.5), "maxrl": {0: 0.6, 1: 0.7, 2: 0.6, 3: 0.8}}
    place = write_campaign(Path("outputs/abl/2025-06-01_12-00-00"), scores)
    document = printed(capsys, "compare", str(place))
    said = documented("compare")
    assert tops(said) == set(document)
    for table in ("conditions", "comparisons", "runs"):
        assert below(said, f"{table}[]") == set(document[table][0]), table
    assert listed_below("compare", "secondary") == set(document["secondary"][0])


def test_plugins_and_fetch(capsys):
    assert below(documented("plugins"), "plugins[]") == {field.name for field in dataclasses.fields(plugins.Plugin)}
    assert listed_below("plugins", "plugins[].options") == {field.name for field in dataclasses.fields(plugins.Option)}
    assert tops(documented("plugins")) == set(printed(capsys, "plugins", "--kind", "reward"))
    assert below(documented("fetch"), "items[]") == {field.name for field in dataclasses.fields(fetch.Item)}


def test_rollouts():
    said = documented("rollouts")
    assert tops(said) == {"run", "step", "completions"}
    assert below(said, "completions[]") == set(rollouts._schema().names)


def test_eval():
    source = textwrap.dedent(inspect.getsource(eval_command.document))
    [returned] = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Return)]
    assert isinstance(returned, ast.Dict)
    assert documented("eval") == {key.value for key in returned.keys if isinstance(key, ast.Constant)}


def test_debug_batch():
    assert documented("debug-batch") == {
        *(field.name for field in dataclasses.fields(replay.Replay)),
        "first",
        "to_blame",
    }
    for field, shape in {
        "inputs": replay.BadInput,
        "weights": replay.BadWeight,
        "logprobs": replay.BadToken,
        "rows": replay.RowLoss,
        "gradients": replay.Gradient,
    }.items():
        assert listed_below("debug-batch", field) == {each.name for each in dataclasses.fields(shape)}, field


def test_the_error_document(capsys):
    Path("mini.toml").write_text("[training]\nmax_step = 3\nlr = 'fast'\n")
    assert main(["explain", "mini.toml", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    document = json.loads(captured.err)
    assert tops(documented("Errors")) == set(document)
    assert below(documented("Errors"), "problems[]") == set(document["error"]) == set(document["problems"][1])
    assert document["error"] == document["problems"][0]


def test_every_json_block_of_the_topics_is_json():
    for topic in TOPICS.glob("*.md"):
        for block in re.findall(r"^```json\n(.*?)^```", topic.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            documents = [block] if block.startswith("{\n") else block.splitlines()
            assert all(isinstance(json.loads(document), dict) for document in documents), topic.name


def test_man(capsys):
    assert tops(documented("man")) == set(printed(capsys, "man", "sepa"))
    listed = printed(capsys, "man", "--list-topics")
    assert (tops(documented("man", "field of the list")), listed_below("man", "topics")) == (
        set(listed),
        set(listed["topics"][0]),
    )
    search = printed(capsys, "man", "--search", "out of memory")
    said = documented("man", "field of a search")
    assert (tops(said), below(said, "hits[]")) == (set(search), set(search["hits"][0]))
    assert documented("man", "field of the source") >= set(printed(capsys, "man", "--path"))


def test_backends(capsys):
    document = printed(capsys, "backends")
    assert set(document) == {"backends", "engines"}
    assert documented("backends") == set(document["backends"][0]) == set(document["engines"][0])


def test_doctor(capsys):
    document = printed(capsys, "doctor")
    said = documented("doctor")
    assert (tops(said), below(said, "checks[]")) == (set(document), set(document["checks"][0]))


def test_init(capsys):
    document = printed(capsys, "init", "--list")
    assert tops(documented("init")) == set(document)
    assert listed_below("init", "templates") == set(document["templates"][0])
