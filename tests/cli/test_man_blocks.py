"""The generated blocks of the manual: each says what is declared, all of it, and refuses what it cannot say."""

import re

import pytest

from retrain import errors, health, metrics, registry
from retrain.cli import man_blocks
from retrain.cli.commands import COMMANDS
from retrain.cli.man_blocks import BLOCKS
from retrain.config.names import OTHER_NAMES
from retrain.config.schema import CAMPAIGN_KEYS, KEYS, SECTIONS, RunConfig
from retrain.errors import ConfigError, RetrainError


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    head, rule, *lines = text.splitlines()
    assert set(rule) <= set("|- ")
    found = [line.strip("|").split("|") for line in lines]
    assert all(len(cells) == head.count("|") - 1 for cells in found)
    return [[cell.strip() for cell in cells] for cells in found]


def section_of(dotted: str, text: str) -> str:
    """Return the part of the reference under the heading of a key's section."""
    return text.partition(f"### [{dotted.partition('.')[0]}]\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("dotted", KEYS)
def test_every_key_is_there_with_its_meaning(dotted):
    name, meaning = KEYS[dotted].name, KEYS[dotted].help
    lines = section_of(dotted, BLOCKS["keys"]([])).splitlines()
    [line] = [line for line in lines if line.startswith(f"- `{name} = ")]
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
    assert f"\n{line}" in section_of(dotted, BLOCKS["keys"]([]))


def test_keys_of_some_sections_are_those_only():
    text = BLOCKS["keys"](["sepa", "gtpo"])
    assert re.findall(r"^### \[(\w+)\]$", text, re.MULTILINE) == ["sepa", "gtpo"]
    assert re.findall(r"^### \[(\w+)\]$", BLOCKS["keys"]([]), re.MULTILINE) == list(SECTIONS)


def test_every_key_of_a_campaign_is_there():
    assert re.findall(r"^- `(\w+) = ", BLOCKS["campaign-keys"]([]), re.MULTILINE) == list(CAMPAIGN_KEYS)


def test_every_other_name_is_there_with_its_key():
    assert {a.strip("`"): b.strip("`") for a, b in rows(BLOCKS["other-names"]([]))} == OTHER_NAMES


@pytest.mark.parametrize("family", registry.BUILTIN)
def test_every_name_of_a_family_is_there_with_what_it_does(family):
    found = rows(BLOCKS["names"]([family]))
    assert {cells[0].strip("`"): cells[1] for cells in found} == {
        name: entry.summary for name, entry in registry.BUILTIN[family].items()
    }


def test_a_formula_names_its_options_and_no_bar_ends_its_cell():
    formulas = {cells[0]: cells[2] for cells in rows(BLOCKS["names"](["transform"]))}
    assert formulas["`hicra`"] == "`A_t = A_t + alpha·abs(A_t) on planning tokens`"
    assert not any("{" in text for text in formulas.values())


def test_what_a_choice_needs_is_said():
    needs = {cells[0].strip("`"): cells[3] for cells in rows(BLOCKS["names"](["transform"]))}
    assert {name for name, need in needs.items() if need == "planning tokens"} == {"sepa", "hicra"}


def test_every_command_is_there_with_its_usage():
    found = re.findall(r"^- `(.+)`: (.+)$", BLOCKS["commands"]([]), re.MULTILINE)
    assert found == [(command.usage, command.summary) for command in COMMANDS.values()]
    assert BLOCKS["commands"](["man"]).startswith("- `retrain man ")


def test_every_exit_code_is_one_of_an_error():
    codes = {int(cells[0]): cells[1].strip("`") for cells in rows(BLOCKS["exit-codes"]([]))}
    raised = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RetrainError)
    }
    assert set(codes) == {0} | raised
    assert (codes[2], codes[130]) == ("config", "interrupted")


def test_every_metric_is_there_or_those_of_a_family():
    assert [cells[0].strip("`") for cells in rows(BLOCKS["metrics"]([]))] == list(metrics.METRICS)
    assert {cells[0].strip("`").partition("/")[0] for cells in rows(BLOCKS["metrics"](["sepa", "eval"]))} == {
        "sepa",
        "eval",
    }


def test_every_rule_of_health_is_there_with_its_limit():
    found = {cells[0].strip("`"): cells[2] for cells in rows(BLOCKS["health"]([]))}
    assert list(found) == [rule.name for rule in health.rules(RunConfig())]
    said = " ".join(found.values())
    for key in KEYS.values():
        if key.section == "health" and key.name.startswith(("max_", "min_")):
            assert f"`{key.name}` = {key.default}" in said


@pytest.mark.parametrize("name", BLOCKS)
def test_an_argument_that_is_not_known_is_refused(name):
    with pytest.raises(ConfigError, match="trainin"):
        BLOCKS[name](["trainin"])


def test_a_family_must_be_named():
    with pytest.raises(ConfigError, match="name 1 family of names, not 0"):
        BLOCKS["names"]([])


def test_no_block_depends_on_what_else_is_installed(monkeypatch):
    before = {name: BLOCKS[name](["reward"] if name == "names" else []) for name in BLOCKS}
    monkeypatch.setattr(registry, "names", lambda kind: {"from-elsewhere": registry.Entry(target="", summary="")})
    assert before == {name: BLOCKS[name](["reward"] if name == "names" else []) for name in BLOCKS}


def test_a_bar_in_a_cell_is_no_end_of_it():
    assert rows(man_blocks.table(["a", "b"], [["x|y", "z"]])) == [["x&#124;y", "z"]]
