"""Names become objects: the table, then modules beside the TOML."""

import pytest

from retrain import registry
from retrain.errors import ConfigError


def plugin(folder, value, module="plugin_of_this_test"):
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(f"def reward(response, reference):\n    return {value}\n")
    return folder


@pytest.mark.parametrize("name", ["plugin_of_this_test:reward", "plugin_of_this_test.reward"])
def test_a_plugin_is_found_beside_the_toml(tmp_path, name):
    found = registry.resolve("reward", name, places=[plugin(tmp_path / "a", 1.0)])
    assert found("", "") == 1.0


def test_a_namesake_in_another_folder_is_not_mistaken_for_the_plugin(tmp_path):
    places = [plugin(tmp_path / "a", 1.0), plugin(tmp_path / "b", 2.0)]
    values = [registry.resolve("reward", "plugin_of_this_test:reward", places=[place])("", "") for place in places]
    assert values == [1.0, 2.0]


def test_the_folder_named_first_wins(tmp_path):
    places = [plugin(tmp_path / "a", 1.0), plugin(tmp_path / "b", 2.0)]
    assert registry.resolve("reward", "plugin_of_this_test:reward", places=places[::-1])("", "") == 2.0


def test_a_module_that_fails_to_import_is_named_with_its_error(tmp_path):
    (tmp_path / "broken_plugin.py").write_text("import no_such_module\n")
    with pytest.raises(
        ConfigError, match="broken_plugin failed: ModuleNotFoundError: No module named 'no_such_module'"
    ):
        registry.resolve("reward", "broken_plugin:reward", places=[tmp_path])


def test_a_missing_attribute_is_named(tmp_path):
    with pytest.raises(ConfigError, match="plugin_of_this_test has no attribute absent"):
        registry.resolve("reward", "plugin_of_this_test:absent", places=[plugin(tmp_path / "a", 1.0)])


def test_checking_a_name_imports_nothing(tmp_path):
    (tmp_path / "bomb.py").write_text("raise SystemExit('imported')\n")
    assert registry.check("reward", "bomb:reward", places=[tmp_path]) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [("mathh", 'did you mean "math"?'), ("no_such_module:reward", "there is no module no_such_module")],
)
def test_an_unknown_name_is_answered_with_what_there_is(tmp_path, name, said):
    problem = registry.check("reward", name, places=[tmp_path], key="reward.type", file="mini.toml", line=3)
    assert said in problem.message
    assert str(problem).startswith("mini.toml:3: reward.type")


@pytest.mark.parametrize("kind", sorted(registry.BUILTIN.keys() - {"mode"}))  # a mode is a list of transforms
def test_every_built_in_name_exists(kind):
    for name, entry in registry.BUILTIN[kind].items():
        assert registry.resolve(kind, name, places=[]) is not None, name
        assert entry.summary


def factory(by: float = 1.0, times: int = 2, loud: bool = False, name: str = ""):
    return by, times, loud, name


@pytest.mark.parametrize(
    "options", [{"by": "much"}, {"by": True}, {"times": 2.5}, {"times": True}, {"loud": 1}, {"name": 3}, {"bye": 1.0}]
)
def test_an_option_of_the_wrong_type_or_name_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        registry.made_with(factory, options, "transform my:factory")


def test_options_of_the_right_type_arrive_and_a_whole_number_is_a_number():
    assert registry.made_with(factory, {"by": 3, "loud": True}, "x") == (3, 2, True, "")
