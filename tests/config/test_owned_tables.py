"""A free-form table belongs to a name: what lower layers put into it goes when the name changes, by whatever means."""

import pytest

from retrain.config.origins import Layer, Origin, owned_below, trace

OTHER = 'model = "org/other"\n'
ARGS = "[data.chat_template_args]\nenable_thinking = false\nstyle = 'short'\n"


@pytest.fixture
def thinking(project):
    project.write("mini.toml", f"{ARGS}")
    project.write("conf/model/other.toml", OTHER)
    return project


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ([], {"enable_thinking": False, "style": "short"}),
        (["model=qwen3_4b"], {"enable_thinking": False, "style": "short"}),
        (["--model", "Qwen/Qwen3-4B-Instruct-2507"], {"enable_thinking": False, "style": "short"}),
        (["model=other"], {}),
        (["model.model=org/other"], {}),
        (["--model", "org/other"], {}),
        (["--model", "org/other", "data.chat_template_args.x=1"], {"x": 1}),
        (["data.chat_template_args.x=1", "--model", "org/other"], {"x": 1}),
        (["data.chat_template_args.x=1"], {"enable_thinking": False, "style": "short", "x": 1}),
        (["~data.chat_template_args.style"], {"enable_thinking": False}),
        (["model=other", "--model", "Qwen/Qwen3-4B-Instruct-2507"], {}),
    ],
)
def test_a_change_of_the_owner_drops_what_lower_layers_set(thinking, arguments, left):
    composed = thinking.compose(*arguments)
    assert composed.config.data.chat_template_args == left
    assert {key.removeprefix("data.chat_template_args.") for key in composed.origins if key.count(".") > 1} == set(left)


def test_a_child_that_changes_the_owner_drops_its_parent_s_table_but_not_its_own(thinking):
    thinking.write("child.toml", 'extends = "mini.toml"\n[model]\nmodel = "org/other"\n')
    assert thinking.value("data.chat_template_args", toml="child.toml") == {}
    thinking.write(
        "child.toml", 'extends = "mini.toml"\n[model]\nmodel = "org/other"\n[data.chat_template_args]\nx = 1\n'
    )
    assert thinking.value("data.chat_template_args", toml="child.toml") == {"x": 1}


def test_a_group_file_s_own_table_stays(project):
    project.write("conf/data/mine.toml", 'source = "arithmetic"\nname = ""\nchat_template_args = { x = 1 }\n')
    assert project.value("data.chat_template_args", "data=mine") == {"x": 1}


def test_a_file_s_choice_that_changes_the_owner_comes_before_its_own_table(thinking):
    thinking.write("mini.toml", f'[defaults]\nmodel = "other"\n{ARGS}')
    assert thinking.value("data.chat_template_args") == {"enable_thinking": False, "style": "short"}


def test_nested_entries_merge_and_can_be_removed(project):
    project.write("base.toml", "[data.chat_template_args]\na = { b = 1, c = 2 }\n")
    project.write("mini.toml", 'extends = "base.toml"\n[data.chat_template_args]\na = { c = 3 }\n')
    assert project.value("data.chat_template_args") == {"a": {"b": 1, "c": 3}}
    assert project.value("data.chat_template_args", "~data.chat_template_args.a.b") == {"a": {"c": 3}}


def test_what_was_dropped_is_told(thinking):
    composed = thinking.compose("--model", "org/other")
    [(value, origin)] = composed.shadowed["data.chat_template_args"]
    assert value == {"enable_thinking": False, "style": "short"}
    assert str(origin) == "mini.toml:1"


def test_a_table_without_an_owner_is_never_dropped(project):
    project.write("mini.toml", '[logging.tags]\na = "1"\n')
    assert project.value("logging.tags", "--model", "org/other", "--backend", "local") == {"a": "1"}


def layer(name, **values):
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    origins = {key: Origin(kind="file", file=name) for key in dotted}
    origins |= {f"{key}.{e}": origins[key] for key, v in dotted.items() if isinstance(v, dict) for e in v}
    return Layer(values=dotted, origins=origins)


def test_only_the_last_change_of_an_owner_counts():
    """a → b → a: what was written under b, and under the first a, is gone."""
    layers = [
        layer("1", backend__options={"x": 1}),
        layer("2", backend__backend="b", backend__options={"y": 2}),
        layer("3", backend__backend="local"),
        layer("4", backend__options={"z": 3}),
        layer("top", backend__backend="local"),
    ]
    assert owned_below(layers, "backend.options") == {"z": 3}
    origins, shadowed = trace(layers)
    assert str(origins["backend.options.z"]) == "4"
    assert "backend.options.y" not in origins
    assert [value for value, _ in shadowed["backend.options"]] == [{"y": 2}, {"x": 1}]
