"""Every ``--json`` document, pinned: its keys, their types, what may be null. Values are not: they differ every time.

A change of what programs read is made on purpose, and seen in review:

    RETRAIN_PIN_JSON=1 pytest tests/cli/test_json_documents.py     writes tests/cli/json/NAME.json anew
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from retrain.cli.commands import COMMANDS
from retrain.cli.main import main
from tests.campaign_folder import make_campaign, make_run
from tests.cli.json_shapes import shape
from tests.cli.test_rollouts import ROWS, save
from tests.made_runs import many, write_campaign
from tests.test_crossed import campaign, luck
from tests.test_replay import Run

PINNED = Path(__file__).parent / "json"
TOML = '[model]\nmodel = "builtin:tiny"\n\n[data]\nsource = "arithmetic"\n\n[training]\nmax_tokens = 8\n'
SEARCH = """\
extends = "mini.toml"
[campaign]
sweeper = "optuna"
[campaign.space]
"training.lr" = "interval(1e-5, 1e-3)"
algorithm = ["grpo", "maxrl"]
"""
CAMPAIGN = """\
extends = "mini.toml"
[campaign]
seeds = [1, 2, 3, 4]
[[campaign.conditions]]
name = "a"
[[campaign.conditions]]
name = "b"
overrides = ["algorithm.transforms=[{name: sepa}, {name: gtpo}]"]
"""


@dataclass(frozen=True, kw_only=True)
class Document:
    """How to make one document.

    arguments: the command line, without --json; several, a line each, show what may be null
    make:      writes beforehand what the command reads; gets the folder
    data_keys, anything: as for `json_shapes.shape`
    code:      the exit code; the document of a failure is on stderr
    """

    arguments: str
    make: Callable[[Path], object] = bool
    data_keys: set[str] = field(default_factory=set)
    anything: set[str] = field(default_factory=set)
    code: int = 0

    @property
    def command(self):
        first = self.arguments.split()[0]
        return first if first in COMMANDS else "train"


def some_runs(folder):
    """Runs and campaigns in every state, so that what may be null is."""
    for state in ("done", "failed", "running", "interrupted"):
        make_run(folder / f"outputs/mini/{state}", state=state, exit_reason="boom" if state == "failed" else "")
    make_run(folder / "outputs/mini/new", state="running", steps=0)
    problem = {"rule": "truncation", "step": 3, "message": "m", "hint": "h", "evidence": {"rate": 0.9}, "until": None}
    best = {"step": 20, "score": 0.5}
    make_run(
        folder / "outputs/mini/trouble",
        state="done",
        problems=[problem, problem | {"until": 5}],
        best=best,
        active_seconds=9.0,
    )
    with (folder / "outputs/mini/done/metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 21, "time": 1.0, "reward/mean": 0.5, "reward/correct_rate": 0.5}) + "\n")
    make_campaign(folder / "outputs/abl/2", {"a": ["done", "done"]}, state="done")
    make_campaign(folder / "outputs/abl/1", {"a": ["done", "failed"], "b": ["running", "planned"]})


def a_study(folder):
    write_campaign(folder / "study", many(3, 5) | {"c": {1: 0.5, 2: "failed"}})
    campaign(folder / "answered", dict.fromkeys("ab", range(1, 6)), luck)


def a_search(folder):
    """A search with a trial that is done, one that failed and one that goes on."""
    campaign = {
        "sweeper": "optuna", "space": {"training.lr": "1e-5,1e-4,1e-3"}, "seeds": [1], "metric": "eval/score",
        "sweeper_options": {"n_trials": 4, "direction": "maximize", "sampler": {"name": "tpe", "seed": 42}},
        "max_workers": 1, "baseline": "", "max_steps": 40,
    }  # fmt: skip
    labels = ["t0", "t1", "t2"]
    conditions = [{"label": label, "overrides": [], "values": {"training.lr": 1e-5}} for label in labels]
    states = dict(zip(labels, (["done"], ["failed"], ["running"]), strict=True))
    make_campaign(folder / "outputs/search/1", states, seeds=(1,), campaign=campaign, conditions=conditions)


def an_adapter(folder):
    folder.mkdir()
    facts = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


def one_run(folder):
    save(make_run(folder / "outputs/mini/1"), 1, ROWS)


def a_broken_batch(folder):
    run = Run(folder)
    run.inputs["advantages"][3, 0] = float("inf")
    weight = next(weight for name, weight in run.policy.named_parameters() if "lora_B" in name)
    weight.data[1, 2] = float("nan")
    run.keep()


OF_A_CONFIG = {
    "data_keys": {
        *("config", "config.*", "sources.keys", "derived.conditions[].differs", "derived.money_at_most"),
        *("campaign.space", "campaign.sweeper_options"),
    },
    "anything": {
        *("config.*.*", "sources.keys.*.shadows[].value", "derived.conditions[].differs.*"),
        *("campaign.space.*", "campaign.sweeper_options.*"),
    },
}  # the schema says what a config holds
BY_CURRENCY = {"runs[].money", "campaigns[].money", "campaigns[].runs[].money"}
EVIDENCE = {"runs[].problems[].evidence", "campaigns[].runs[].problems[].evidence"}

DOCUMENTS = {
    "explain-run": Document(
        arguments="explain mini.toml training.lr=1e-5 --top-p 0.9 --max-tokens 4\n"
        "explain mini.toml --model org/nothing --eval-examples 0 --model-adapter start",
        **OF_A_CONFIG,
    ),
    "explain-campaign": Document(
        arguments="explain abl.toml\nexplain abl.toml --model org/nothing campaign.seeds=[1]", **OF_A_CONFIG
    ),
    "explain-search": Document(
        arguments="explain search.toml\nexplain search.toml --model org/nothing training.seed=1", **OF_A_CONFIG
    ),
    "explain-diff": Document(
        arguments="explain mini.toml --lr 1e-3 --diff abl.toml", anything={"diff[].here", "diff[].there"}
    ),
    "status": Document(arguments="status", make=some_runs, data_keys={"campaigns[].counts", *BY_CURRENCY, *EVIDENCE}),
    "compare": Document(
        arguments="compare study\ncompare answered",
        make=a_study,
        data_keys={"conditions[].values", "secondary[].means", "secondary[].differences"},
    ),
    "compare-search": Document(
        arguments="compare search",
        make=a_search,
        data_keys={"sampler", "trials[].values", "trials[].by_seed"},
        anything={"sampler.*", "trials[].values.*"},
    ),
    "eval": Document(
        arguments="eval builtin:tiny mini.toml --eval-examples 4 --eval-samples 2 --devices cpu",
        data_keys={"pass_at"},
    ),
    "rollouts": Document(arguments="rollouts mini", make=one_run, data_keys={"completions[].reward_parts"}),
    "fetch": Document(arguments="fetch mini.toml"),
    "plugins": Document(arguments="plugins mini.toml", anything={"plugins[].options[].default"}),
    "debug-batch": Document(arguments="debug-batch run/debug/step-3.pt --devices cpu", make=a_broken_batch),
    "init-list": Document(arguments="init --list"),
    "man-topic": Document(arguments="man sepa"),
    "man-list": Document(arguments="man --list-topics"),
    "man-search": Document(arguments="man --search lora\nman --search checkpiont", data_keys={"replaced"}),
    "man-path": Document(arguments="man --path"),
    "man-check": Document(arguments="man --check"),
    "backends": Document(arguments="backends", anything={"backends[].options[].default"}),
    "doctor": Document(arguments="doctor\ndoctor mini.toml logging.tracking_uri=none"),
    "error": Document(arguments="explain bad.toml", code=2),
    "error-of-the-front-door": Document(arguments="exlpain", code=2),
}
"""Name → how to make it. A command that takes --json has at least one."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    an_adapter(tmp_path / "start")
    (tmp_path / "mini.toml").write_text(TOML)
    (tmp_path / "abl.toml").write_text(CAMPAIGN)
    (tmp_path / "search.toml").write_text(SEARCH)
    (tmp_path / "bad.toml").write_text(f"{TOML}[trainin]\nlr = 1\n")
    return tmp_path


def test_every_command_that_takes_json_has_its_document_pinned():
    taking = {name for name, command in COMMANDS.items() if "--json" in command.flags}
    assert taking - {document.command for document in DOCUMENTS.values()} == set()


def test_every_pinned_document_is_made():
    assert {path.stem for path in PINNED.glob("*.json")} == set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_has_the_keys_and_types_that_programs_rely_on(name, folder, capsys):
    document, file = DOCUMENTS[name], PINNED / f"{name}.json"
    document.make(folder)
    capsys.readouterr()
    shown = []
    for line in document.arguments.splitlines():
        assert main([*line.split(), "--json"]) == document.code
        out, err = capsys.readouterr()
        assert not (document.code and out)
        shown.append(json.loads(err if document.code else out))
    made = shape(*shown, data_keys=document.data_keys, anything=document.anything)
    if os.environ.get("RETRAIN_PIN_JSON"):
        file.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    assert made == json.loads(file.read_text(encoding="utf-8")), "on purpose? RETRAIN_PIN_JSON=1 pins it anew"


def test_a_shape_tells_types_and_keys_and_what_may_be_null():
    document = {"a": [{"x": 1, "y": None}, {"x": 1.5, "y": "t"}], "b": {"m/1": True}, "c": [], "d": [1]}
    assert shape(document, data_keys={"b"}, anything={"d"}) == {
        "": "table",
        "a": "list",
        "a[]": "table",
        "a[].x": "number",
        "a[].y": "text | null",
        "b": "table",
        "b.*": "bool",
        "c": "list",
        "d": "anything",
    }
    with pytest.raises(ValueError, match="'y'"):
        shape({"a": [{"x": 1, "y": None}, {"x": 1}]})
