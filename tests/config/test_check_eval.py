"""Rules of [eval]: every key that is set has an effect, and what is asked for can be had."""

import pytest

JSONL = ["data.source=jsonl", "data.path=rows.jsonl"]

CASES = [  # arguments, the place's key, what is wrong, the fix
    (["eval.temperature=-0.5"], "eval.temperature", "neither a temperature nor -1", "temperature = 0.0"),
    (["eval.temperature=0", "eval.samples=4"], "eval.samples", "all completions of a problem are the same", "samples"),
    (["eval.path=rows.jsonl"], "eval.path", "has no effect: eval.source is empty", "set eval.source too"),
    (["eval.name=x"], "eval.name", "has no effect: eval.source is empty", "set eval.source too"),
    (["eval.split=test"], "eval.split", "has no effect: eval.source is empty", "set eval.source too"),
    (["eval.source=jsonl"], "eval.source", "needs a file", "set eval.path too"),
    (["eval.source=hf"], "eval.source", "needs a data set", "set eval.name too"),
    (["eval.source=jsonl", "eval.path=rows.jsn"], "eval.path", 'did you mean "rows.jsonl"?', "looked in"),
    (["eval.source=jsonl", "eval.path=sub"], "eval.path", "is a folder", "name the .jsonl"),
    (
        ["eval.source=jsonl", "eval.path=rows.jsonl", "eval.split=test"],
        "eval.split",
        'source = "jsonl" does not use it',
        "leave split out",
    ),
    (["eval.source=gsm8k", "eval.name=x"], "eval.name", 'source = "gsm8k" does not use it', "leave name out"),
    (["eval.every=0", "eval.samples=4"], "eval.samples", "turns evaluation off", "leave samples out, or set every"),
    (["eval.every=0", "eval.source=gsm8k"], "eval.source", "turns evaluation off", "leave source out"),
    (["eval.every=0", "eval.split=test"], "eval.split", "eval.source is empty", "set eval.source too"),
    (["eval.every=0", "eval.keep_best=false"], "eval.keep_best", "turns evaluation off", "leave keep_best out"),
    (
        ["eval.every=0", "eval.final_test=true", "eval.examples=9"],
        "eval.examples",
        "turns evaluation off",
        "leave examples out",
    ),
    (
        [*JSONL, "eval.final_test=true"],
        "eval.final_test",
        'data.source = "jsonl" does not have',
        "leave final_test out",
    ),
    (
        ["data.split=test", "eval.final_test=true"],
        "eval.final_test",
        'data.split = "test" trains on it',
        'data.split = "train"',
    ),
]


@pytest.fixture
def folder(project):
    project.write("rows.jsonl", "{}\n")
    (project.root / "sub").mkdir()
    return project


@pytest.mark.parametrize(("arguments", "key", "wrong", "fix"), CASES)
def test_keys_of_an_evaluation_that_cannot_be_are_refused(folder, arguments, key, wrong, fix):
    [problem] = folder.problems(*arguments)
    assert problem.key == key
    assert wrong in problem.message
    assert fix in problem.hint
    assert problem.where.startswith("command line: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["eval.every=0"],
        ["eval.every=0", "eval.final_test=true", "eval.samples=4", "eval.temperature=0.6", "eval.max_tokens=9"],
        ["eval.temperature=0"],
        ["eval.temperature=-1", "eval.samples=8"],
        ["eval.source=jsonl", "eval.path=rows.jsonl", "eval.examples=0"],
        ["eval.source=math", "eval.name=algebra"],
        ["eval.source=arithmetic", "eval.split=train"],
        ["eval.reward=match", "eval.keep_best=false"],
        ["reward=match", "eval.reward=math", "reward.timeout=1"],
        [*JSONL, "eval.source=gsm8k"],
    ],
)
def test_evaluations_that_can_be_pass(folder, arguments):
    folder.compose(*arguments)


def test_a_plugin_has_no_test_split_that_one_could_know_of(project):
    project.write("mine.py", "")
    [problem] = project.problems("data.source=mine:rows", "eval.final_test=true")
    assert problem.key == "eval.final_test"


def test_a_resolved_config_passes_again(project):
    project.write("mini.toml", "[eval]\nevery = 0\nfinal_test = true\nsamples = 2\n")
    project.write("again.toml", project.compose().to_toml())
    assert project.compose(toml="again.toml").config == project.compose().config


def test_a_file_beside_the_toml_is_found_from_the_run_s_own_toml_too(project):
    project.write("sub/rows.jsonl", "{}\n")
    project.write("sub/mini.toml", '[eval]\nsource = "jsonl"\npath = "rows.jsonl"\n')
    assert project.value("eval.path", toml="sub/mini.toml") == "sub/rows.jsonl"
    project.write("runs/1/config.toml", project.compose(toml="sub/mini.toml").to_toml())
    assert project.value("eval.path", toml="runs/1/config.toml") == "sub/rows.jsonl"
