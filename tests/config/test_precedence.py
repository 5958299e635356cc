"""schema < parents < the TOML < group choices on the command line < values on the command line.

Each case: what is typed, what a key is then, where that comes from, and what it shadows. That each layer beats each
weaker one, those of campaigns too, is swept in test_layer_order.py; here is what a list of layers does not say.
"""

import pytest

BASE = """
[defaults]
algorithm = "rloo"
model = "tiny"
[algorithm]
clip_eps = 0.3
loss_type = "bnpo"
[training]
lr = 1e-3
max_steps = 10
[logging]
tags = { team = "base", kind = "parent" }
[data]
system_prompt = "${oc.env:TEAM}"
instruction = "${oc.env:TEAM}"
"""
MINI = """
extends = "base.toml"
[defaults]
algorithm = "maxrl"
[algorithm]
clip_eps = 0.4
[training]
lr = 2e-3
seed = 7
stop = ["</a>", "</b>"]
[logging]
tags = { team = "mini" }
[data]
instruction = "us"
"""
MINE = 'advantage_mode = "rloo"\ntransform_mode = "none"\nclip_eps = 0.15\n'
RLOO = 'advantage_mode = "rloo"\ntransform_mode = "none"\nloss_type = "luspo"\n'  # of the package's name
EXPERIMENT = """
[defaults]
algorithm = "reinforce_pp"
[training]
lr = 9e-3
group_size = 4
[algorithm]
clip_eps = 0.25
"""

CASES = [
    # key, arguments, value, where it comes from
    ("training.batch_size", [], 8, "default"),
    ("training.max_steps", [], 10, "base.toml:10"),
    ("training.lr", [], 2e-3, "mini.toml:8"),
    ("model.model", [], "builtin:tiny", "conf/model/tiny.toml:2"),
    ("algorithm.loss_type", [], "bnpo", "base.toml:7"),
    ("algorithm.advantage_mode", [], "maxrl", "conf/algorithm/maxrl.toml:3"),
    ("algorithm.clip_eps", [], 0.4, "mini.toml:6"),
    ("training.stop", ["training.stop=[x]"], ["x"], "command line: training.stop=[x]"),
    ("logging.tags", [], {"team": "mini", "kind": "parent"}, "mini.toml:12"),
    ("training.lr", ["training.lr=3e-3"], 3e-3, "command line: training.lr=3e-3"),
    ("training.lr", ["--lr", "3e-3"], 3e-3, "command line: --lr 3e-3"),
    ("training.lr", ["--lr=3e-3"], 3e-3, "command line: --lr=3e-3"),
    ("training.lr", ["--training-lr", "3e-3"], 3e-3, "command line: --training-lr 3e-3"),
    ("training.lr", ["--lr", "3e-3", "training.lr=4e-3"], 4e-3, "command line: training.lr=4e-3"),
    ("training.lr", ["training.lr=4e-3", "--lr", "3e-3"], 3e-3, "command line: --lr 3e-3"),
    ("training.lr", ["--lr", "3e-3", "--lr", "5e-3"], 5e-3, "command line: --lr 5e-3"),
    ("training.lr", ["--lr", "3e-3", "--training-lr=5e-3"], 5e-3, "command line: --training-lr=5e-3"),
    ("training.lr", ["training.lr=3e-3", "++training.lr=5e-3"], 5e-3, "command line: ++training.lr=5e-3"),
    ("training.seed", ["--seed", "-1"], -1, "command line: --seed -1"),
    ("training.shuffle", ["--shuffle", "--shuffle", "false"], False, "command line: --shuffle false"),
    ("training.shuffle", ["--shuffle", "false"], False, "command line: --shuffle false"),
    ("training.shuffle", ["--shuffle"], True, "command line: --shuffle true"),
    ("training.shuffle", ["--shuffle", "--lr", "1"], True, "command line: --shuffle true"),
    ("algorithm.advantage_mode", ["algorithm=grpo"], "grpo", "conf/algorithm/grpo.toml:3"),
    ("algorithm.advantage_mode", ["algorithm=rloo"], "rloo", "conf/algorithm/rloo.toml:1"),
    ("algorithm.advantage_mode", ["algorithm=grpo", "algorithm=rloo"], "rloo", "conf/algorithm/rloo.toml:1"),
    ("algorithm.advantage_mode", ["+algorithm=rloo"], "rloo", "conf/algorithm/rloo.toml:1"),
    ("algorithm.clip_eps", ["algorithm=grpo"], 0.4, "mini.toml:6"),
    ("algorithm.clip_eps", ["algorithm=mine"], 0.15, "conf/algorithm/mine.toml:3"),
    ("algorithm.clip_eps", ["algorithm=mine", "--clip-eps", "0.1"], 0.1, "command line: --clip-eps 0.1"),
    ("algorithm.clip_eps", ["--clip-eps", "0.1", "algorithm=mine"], 0.1, "command line: --clip-eps 0.1"),
    ("algorithm.advantage_mode", ["algorithm=other", "--config-dir", "more"], "grpo", "more/algorithm/other.toml:1"),
    ("algorithm.clip_eps", ["algorithm=mine", "--config-dir=more"], 0.5, "more/algorithm/mine.toml:3"),
    ("training.group_size", ["experiment=try"], 4, "conf/experiment/try.toml:6"),
    ("training.lr", ["experiment=try"], 9e-3, "conf/experiment/try.toml:5"),
    ("training.lr", ["experiment=try", "--lr", "1"], 1.0, "command line: --lr 1"),
    ("algorithm.advantage_mode", ["experiment=try"], "reinforce_pp", "conf/algorithm/reinforce_pp.toml:3"),
    ("algorithm.advantage_mode", ["algorithm=rloo", "experiment=try"], "rloo", "conf/algorithm/rloo.toml:1"),
    ("algorithm.clip_eps", ["algorithm=mine", "experiment=try"], 0.15, "conf/algorithm/mine.toml:3"),
    # a variable is a value of the layer that names it; .env fills what is not set, and never overrides
    ("data.system_prompt", [], "owls", "base.toml:14"),
    ("data.system_prompt", ["--data-system-prompt", "x"], "x", "command line: --data-system-prompt x"),
    ("data.instruction", [], "us", "mini.toml:14"),
    ("data.instruction", ["data.instruction=${oc.env:TEAM}"], "owls", "command line: data.instruction=${oc.env:TEAM}"),
    (
        "logging.experiment",
        ["logging.experiment=${oc.env:TEAM}"],
        "owls",
        "command line: logging.experiment=${oc.env:TEAM}",
    ),
    ("logging.run_name", ["--run-name=${oc.env:FREE}"], "from .env", "command line: --run-name=${oc.env:FREE}"),
    ("logging.run_name", ["--run-name=${oc.env:TEAM}"], "owls", "command line: --run-name=${oc.env:TEAM}"),
    # a name is looked up in the last --config-dir, the others, conf/ beside the TOML, beside its parent, the package
    ("algorithm.scale_rewards", ["algorithm=maxrl"], "none", "conf/algorithm/maxrl.toml:5"),
    ("algorithm.loss_type", ["algorithm=rloo"], "luspo", "conf/algorithm/rloo.toml:3"),
    ("algorithm.loss_type", ["algorithm=rloo", "--loss-type", "dapo"], "dapo", "command line: --loss-type dapo"),
    (
        "algorithm.clip_eps",
        ["algorithm=mine", "--config-dir=more", "--config-dir=most"],
        0.7,
        "most/algorithm/mine.toml:3",
    ),
    (
        "algorithm.clip_eps",
        ["algorithm=mine", "--config-dir=most", "--config-dir=more"],
        0.5,
        "more/algorithm/mine.toml:3",
    ),
    ("algorithm.clip_eps", ["algorithm=mine", "--config-dir=most", "algorithm=grpo"], 0.4, "mini.toml:6"),
    ("logging.run_name", ["--run-name", "r${model.lora_rank}"], "r32", "command line: --run-name r${model.lora_rank}"),
    ("inference.engine", ["--engine", "pytorch"], "pytorch", "command line: --engine pytorch"),
    ("optimizer.beta2", ["--optimizer-beta2", "0.5"], 0.5, "command line: --optimizer-beta2 0.5"),
]


@pytest.fixture
def layered(project, monkeypatch):
    monkeypatch.setenv("TEAM", "owls")
    project.write("base.toml", BASE)
    project.write("mini.toml", MINI)
    project.write("conf/algorithm/mine.toml", MINE)
    project.write("conf/experiment/try.toml", EXPERIMENT)
    project.write("more/algorithm/other.toml", 'advantage_mode = "grpo"\ntransform_mode = "none"\n')
    project.write("more/algorithm/mine.toml", MINE.replace("0.15", "0.5"))
    project.write("most/algorithm/mine.toml", MINE.replace("0.15", "0.7"))
    project.write("conf/algorithm/rloo.toml", RLOO)
    project.write(".env", "TEAM=bats\nFREE='from .env'\n")
    monkeypatch.delenv("FREE", raising=False)
    return project


@pytest.mark.parametrize(("dotted", "arguments", "value", "origin"), CASES)
def test_the_highest_layer_that_sets_a_key_wins(layered, dotted, arguments, value, origin):
    composed = layered.compose(*arguments)
    section, _, name = dotted.partition(".")
    assert getattr(getattr(composed.config, section), name) == value
    if dotted == "logging.tags":
        assert str(composed.origins["logging.tags.kind"]) == "base.toml:12"
        dotted = "logging.tags.team"
    assert str(composed.origins[dotted]) == origin


def test_a_group_choice_beats_the_tweaks_of_a_parent_and_is_tweaked_by_its_own_file(project):
    project.write("base.toml", '[defaults]\nalgorithm = "maxrl"\n[algorithm]\nadvantage_mode = "rloo"\n')
    project.write("mini.toml", 'extends = "base.toml"\n')
    assert project.value("algorithm.advantage_mode") == "rloo"
    project.write("mini.toml", 'extends = "base.toml"\n[defaults]\nalgorithm = "maxrl"\n')
    assert project.value("algorithm.advantage_mode") == "maxrl"
    project.write(
        "mini.toml", 'extends = "base.toml"\n[defaults]\nalgorithm = "maxrl"\n[algorithm]\nadvantage_mode = "grpo"\n'
    )
    assert project.value("algorithm.advantage_mode") == "grpo"


def test_keys_that_a_chosen_file_does_not_set_survive(project):
    project.write("mini.toml", "[model]\nlora_rank = 128\n")
    config = project.compose("model=qwen3_8b").config
    assert (config.model.model, config.model.lora_rank) == ("Qwen/Qwen3-8B", 128)


def test_parents_may_be_many_and_each_is_applied_once_before_its_children(project):
    project.write("root.toml", "[training]\nmax_steps = 1\nseed = 1\nlr = 1\n")
    project.write("deep/a.toml", 'extends = "../root.toml"\n[training]\nseed = 2\n')
    project.write("deep/b.toml", 'extends = "../root.toml"\n[training]\nlr = 2\n')
    project.write("mini.toml", 'extends = ["deep/a.toml", "deep/b.toml"]\n')
    composed = project.compose()
    training = composed.config.training
    assert (training.max_steps, training.seed, training.lr) == (1, 2, 2)
    assert [path.name for path in composed.sources] == ["mini.toml", "a.toml", "root.toml", "b.toml"]


def test_a_folder_conf_beside_a_parent_is_used_and_one_beside_the_child_comes_first(project):
    project.write("lib/conf/algorithm/mine.toml", MINE)
    project.write("lib/base.toml", "")
    project.write("mini.toml", 'extends = "lib/base.toml"\n')
    assert project.value("algorithm.clip_eps", "algorithm=mine") == 0.15
    project.write("conf/algorithm/mine.toml", MINE.replace("0.15", "0.35"))
    assert project.value("algorithm.clip_eps", "algorithm=mine") == 0.35


def test_without_a_toml_the_schema_and_the_command_line_are_composed(project):
    composed = project.compose("experiment=demo", "--seed", "3")
    assert (composed.name, composed.path, composed.config.training.seed) == ("retrain", None, 3)
    assert composed.config.model.model == "builtin:tiny"


def test_dotenv_fills_variables_that_are_not_set_and_never_overrides(project, monkeypatch):
    monkeypatch.setenv("TAKEN", "real")
    monkeypatch.delenv("FREE", raising=False)
    project.write(
        ".env", '# a comment\nexport FREE=\'a # b\'\nTAKEN=file\n\nQUOTED="x\\"y" # end\nPLAIN=one two # end\n'
    )
    for name, value in {"FREE": "a # b", "TAKEN": "real", "QUOTED": 'x"y', "PLAIN": "one two"}.items():
        assert project.value("logging.run_name", f"--run-name=${{oc.env:{name}}}") == value


def test_a_data_file_beside_the_toml_is_named_from_the_working_directory(project):
    project.write("exp/d.jsonl", "{}\n")
    project.write("exp/mini.toml", '[data]\nsource = "jsonl"\npath = "d.jsonl"\n')
    assert project.value("data.path", toml="exp/mini.toml") == "exp/d.jsonl"
