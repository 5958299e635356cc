"""Text arrives as typed; numbers, lists and tables are read by their key's type."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrain.config.grammar import hydra_text, parse
from retrain.config.schema import KEYS

TEXTS = [
    "1e5",
    "12e4567",
    "true",
    "null",
    "None",
    "a,b",
    "it's",
    'say "hi"',
    "é",
    "~/runs",
    "C:\\x",
    "C:\\runs\\",
    "x=y (z) {q} [w] #1; é",
    "[a, b]",
    "{a: 1}",
    "a$b",
    "100%",
    "\\",
    "\\'",
    "a\nb",
    "  spaces  ",
    "-1",
    "--x",
    "choice(a,b)",
    "@x|y",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_arrives_as_typed(project, text):
    config = project.compose(f"model.revision={text}", f"--run-name={text}", f"--wandb-project={text}").config
    assert (config.model.revision, config.logging.run_name, config.logging.wandb_project) == (text, text, text)


def test_a_flag_takes_the_next_argument_whatever_it_looks_like(project):
    assert project.value("logging.run_name", "--run-name", "-x=[1,2") == "-x=[1,2"


def test_quotes_around_an_override_are_hydra_s_and_those_of_a_flag_are_text(project):
    assert project.value("logging.run_name", "logging.run_name='a b'") == "a b"
    assert project.value("logging.run_name", "--run-name", "'a b'") == "'a b'"


def test_only_an_unescaped_dollar_brace_interpolates(project):
    assert project.value("logging.run_name", "--run-name", "${model.lora_rank}-\\${x}") == "32-${x}"
    assert project.value("logging.run_name", r"logging.run_name=\${model.lora_rank}") == "${model.lora_rank}"
    project.write("mini.toml", "[logging]\nrun_name = '\\${x} ${training.seed}'\n")
    assert project.value("logging.run_name") == "${x} 42"


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("training.max_steps=1_000", "training.max_steps", 1000),
        ("training.lr=1", "training.lr", 1.0),
        ("training.lr=.5", "training.lr", 0.5),
        ("training.shuffle=False", "training.shuffle", False),
        ("training.stop=[a, 'b, c', \"d]\", 1, true]", "training.stop", ["a", "b, c", "d]", "1", "true"]),
        ("training.stop=[]", "training.stop", []),
        ("training.stop=['it''s']", "training.stop", None),
        ("logging.tags.version=1.0", "logging.tags", {"version": "1.0"}),
        ("logging.tags={a: 1, b = true}", "logging.tags", {"a": "1", "b": "true"}),
        ("data.chat_template_args.enable_thinking=false", "data.chat_template_args", {"enable_thinking": False}),
        (
            "++data.chat_template_args.a.b=[1, {c: 2.5, d: x}]",
            "data.chat_template_args",
            {"a": {"b": [1, {"c": 2.5, "d": "x"}]}},
        ),
        ("data.chat_template_args.n='1'", "data.chat_template_args", {"n": "1"}),
        ("+training.seed=5", "training.seed", 5),
    ],
)
def test_values_are_read_by_their_key_s_type(project, argument, key, value):
    if value is None:
        assert "comma" in project.problems(argument)[0].message
    else:
        found = project.value(key, argument)
        assert found == value
        assert type(found) is type(value)


def test_backend_opt_is_repeatable_and_the_last_of_a_name_wins(project):
    options = project.value("backend.options", "--backend-opt", "threads=1", "--backend-opt=threads=2")
    assert options == {"threads": 2}


@example("\\\n")
@given(st.text(st.sampled_from("ab$\\{}'\"[],:=é \n#~")))
def test_hydra_reads_back_exactly_the_text_that_was_quoted(text):
    """Hydra's own parser is the reference. Interpolations are OmegaConf's business and are tested apart."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if "${" in text:
        return
    [override] = OverridesParser.create().parse_overrides([f"a={hydra_text(text)}"])
    assert override.value() == text


@given(st.text(st.sampled_from("ab$\\{}'\"[],:=é 1e.~")))
def test_a_flag_s_text_is_never_changed(text):
    assert parse(KEYS["logging.run_name"], text, quotes=False) == text
