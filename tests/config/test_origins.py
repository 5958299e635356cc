import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.config import KEYS, Origin, compose, mask
from retrain.config.names import FLAGS, SHORTEST_FLAG


def test_an_origin_reads_as_the_place_that_a_user_would_open():
    assert str(Origin(kind="default")) == "default"
    assert str(Origin(kind="file", file="mini.toml", line=7)) == "mini.toml:7"
    assert str(Origin(kind="group", file="conf/algorithm/maxrl.toml", line=2)) == "conf/algorithm/maxrl.toml:2"
    assert str(Origin(kind="command line", text="--lr 1e-5")) == "command line: --lr 1e-5"
    assert str(Origin(kind="drawn", text="seed = -1")) == "drawn: seed = -1"


def test_every_key_has_an_origin_and_shadowed_values_are_listed_nearest_first(project):
    project.write("base.toml", "[training]\nlr = 1\n")
    project.write("mini.toml", 'extends = "base.toml"\n[defaults]\nexperiment = "demo"\n[training]\nlr = 3\n')
    composed = project.compose("training.lr=4")
    assert set(KEYS) <= set(composed.origins)
    assert [(value, str(origin)) for value, origin in composed.shadowed["training.lr"]] == [
        (3, "mini.toml:5"),
        (0.0005, "conf/experiment/demo.toml:15"),
        (1, "base.toml:2"),
    ]
    assert "training.seed" not in composed.shadowed


def test_group_files_and_parents_are_among_the_sources(project):
    project.write("base.toml", "")
    project.write("mini.toml", 'extends = "base.toml"\n')
    names = [path.name for path in project.compose("experiment=demo").sources]
    assert names == ["mini.toml", "base.toml", "demo.toml", "tiny.toml", "match.toml", "arithmetic.toml"]
    assert project.compose().places == [project.root]


def test_a_replaced_value_says_why_and_what_it_was(project):
    drawn = project.compose("--seed", "-1").replace("training.seed", 17, "seed = -1")
    assert drawn.config.training.seed == 17
    assert str(drawn.origins["training.seed"]) == "drawn: seed = -1"
    assert drawn.shadowed["training.seed"][0][0] == -1
    assert "seed = 17\n" in drawn.to_toml()


SMALL = {
    "training.lr": st.floats(1e-9, 1),
    "training.max_steps": st.integers(1, 10**6),
    "training.shuffle": st.booleans(),
    "logging.run_name": st.text(max_size=8).filter(lambda text: "${" not in text and text != "???"),
    "training.stop": st.lists(st.sampled_from(["a", "b'", '"c']), max_size=2),
}
LAYER = st.fixed_dictionaries({}, optional=SMALL)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=LAYER, mini=LAYER, line=LAYER)
def test_the_origin_is_that_of_the_layer_whose_value_the_config_has(project, base, mini, line):
    """Values come from Hydra's merge, origins from our own walk over the layers: both must name the same layer."""
    import tomli_w

    def nested(values):
        sections = {}
        for dotted, value in values.items():
            section, _, name = dotted.partition(".")
            sections.setdefault(section, {})[name] = value
        return sections

    project.write("base.toml", tomli_w.dumps(nested(base)))
    project.write("mini.toml", tomli_w.dumps({"extends": "base.toml", **nested(mini)}))
    shown = {key: str(v).lower() if isinstance(v, bool) else v for key, v in line.items()}
    shown = {
        key: "[" + ",".join(f'"{i}"' if "'" in i else f"'{i}'" for i in v) + "]" if isinstance(v, list) else v
        for key, v in shown.items()
    }
    composed = project.compose(*[f"{SHORTEST_FLAG[key]}={value}" for key, value in shown.items()])
    for dotted in SMALL:
        section, _, name = dotted.partition(".")
        found = getattr(getattr(composed.config, section), name)
        origin = composed.origins[dotted]
        layers = {"command line": line, "default": {dotted: KEYS[dotted].default}}
        given = layers.get(origin.kind) or (mini if origin.file == "mini.toml" else base)
        assert found == given[dotted]


def test_every_flag_sets_its_key_and_no_two_keys_share_one():
    assert set(FLAGS.values()) == set(KEYS)
    bare = {
        flag: dotted for flag, dotted in FLAGS.items() if KEYS[dotted].section in ("training", "algorithm", "logging")
    }
    for dotted in bare.values():
        assert FLAGS["--" + KEYS[dotted].name.replace("_", "-")] == dotted
    assert {"--model", "--lora-rank", "--backend", "--devices", "--engine", "--adapter-path"} <= set(FLAGS)


def test_secrets_and_passwords_are_masked_wherever_a_value_is_shown(project, monkeypatch):
    monkeypatch.setenv("REAL", "sk-123")
    composed = project.compose(
        "--tracking-uri", "https://u:p@ss@host/x?token=abc&y=1", "data.chat_template_args.api_key=${oc.env:REAL}"
    )
    assert "p@ss" not in str(composed.origins["logging.tracking_uri"])
    assert mask(composed.config.logging.tracking_uri) == "https://u:***@host/x?token=***&y=1"
    assert mask(composed.config.data.chat_template_args) == "{'api_key': '***'}"
    assert mask("sk-123", "data.chat_template_args.api_key") == "***"
    assert mask("question", "data.prompt_key") == "question"
    assert mask(512, "data.chat_template_args.max_tokens") == "512"


def test_a_composed_config_is_plain_dataclasses(project):
    config = project.compose("logging.tags={a: b}", "training.stop=[x]").config
    assert type(config.logging.tags) is dict
    assert type(config.training.stop) is list
    assert dataclasses.asdict(config)["training"]["stop"] == ["x"]


def test_composing_leaves_another_hydra_program_s_state_alone(project):
    from hydra import initialize
    from hydra.core.global_hydra import GlobalHydra

    with initialize(config_path=None, version_base="1.3"):
        before = GlobalHydra.instance().hydra
        compose(None, cwd=project.root)
        assert GlobalHydra.instance().hydra is before


@pytest.mark.parametrize("dotted", [key.dotted for key in KEYS.values()])
def test_every_key_says_what_it_means_and_its_default_is_allowed(dotted):
    from retrain.config.values import find_fault

    key = KEYS[dotted]
    assert key.help
    assert find_fault(key, key.default) is None
    assert not key.choices or key.default in key.choices
