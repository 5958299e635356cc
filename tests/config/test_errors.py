"""Every mistake names its place and key, and what to do about it."""

import pytest

FILE_CASES = [
    # the TOML, place, key, what is wrong, the fix
    ("[training]\nmax_stepss = 3\n", "mini.toml:2", "training.max_stepss", "no key", "did you mean max_steps?"),
    ("[training]\nbeta = 0.1\n", "mini.toml:2", "training.beta", "no key", "algorithm.kl_coef"),
    ("[algorithm]\nlr = 1\n", "mini.toml:2", "algorithm.lr", "no key", "training.lr"),
    ("\n[trainin]\nlr = 1\n", "mini.toml:2", "trainin", "no section", "did you mean [training]?"),
    ("[squirrels]\nseeds = [1]\n", "mini.toml:1", "squirrels", "no section", "sections: model"),
    ("[hydra]\nx = 1\n", "mini.toml:1", "hydra", "no section", "sections: model"),
    ("lr = 1e-5\n", "mini.toml:1", "lr", "in no section", "[training]\n  lr = 1e-05"),
    ('model = "x"\n', "mini.toml:1", "model", "where only sections stand", '[model]\n  model = "x"'),
    (
        '[training]\nlr = "1e-5"\n',
        "mini.toml:2",
        "training.lr",
        "is text; a number is needed",
        "drop the quotes: lr = 1e-05",
    ),
    (
        '[training]\nmax_steps = "8"\n',
        "mini.toml:2",
        "training.max_steps",
        '"8" is text',
        "drop the quotes: max_steps = 8",
    ),
    ("[training]\nmax_steps = 4.7\n", "mini.toml:2", "training.max_steps", "not whole", "try max_steps = 4"),
    ("[training]\nmax_steps = true\n", "mini.toml:2", "training.max_steps", "truth value", "try max_steps = 500"),
    ("[training]\nmax_steps = 0\n", "mini.toml:2", "training.max_steps", "of at least 1", "try max_steps = 1"),
    (
        "[training]\ntemperature = 0\n",
        "mini.toml:2",
        "training.temperature",
        "a number above 0",
        "try temperature = 1.0",
    ),
    ("[lora]\ndropout = 2\n", "mini.toml:2", "lora.dropout", "from 0 to 0.99", "try dropout = 0.99"),
    ("[training]\nlr = nan\n", "mini.toml:2", "training.lr", "not finite", "try lr = 4e-05"),
    ("[training]\nlr = -inf\n", "mini.toml:2", "training.lr", "not finite", "try lr = 4e-05"),
    (
        '[training]\nshuffle = "false"\n',
        "mini.toml:2",
        "training.shuffle",
        "is text",
        "drop the quotes: shuffle = false",
    ),
    ("[training]\nshuffle = 1\n", "mini.toml:2", "training.shuffle", "true or false is needed", "try shuffle = true"),
    ("[model]\nrevision = 8\n", "mini.toml:2", "model.revision", "text is needed", 'in quotes: revision = "8"'),
    ("[model]\nrevision = 2024-01-01\n", "mini.toml:2", "model.revision", "date", "write one text"),
    ('[training]\nstop = "x"\n', "mini.toml:2", "training.stop", "a list of texts", 'try stop = ["x"]'),
    ("[training]\nstop = [1]\n", "mini.toml:2", "training.stop", "holds a whole number", 'try stop = ["1"]'),
    ('[backend]\noptions = "x"\n', "mini.toml:2", "backend.options", "a table is needed", "[backend.options]"),
    ("[backend.options]\nthreads = nan\n", "mini.toml:1", "backend.options", "threads = nan", "finite"),
    ("[logging.tags]\nn = 1\n", "mini.toml:1", "logging.tags", "text is needed", 'write n = "1"'),
    ('[training]\nlr_schedule = "lin"\n', "mini.toml:2", "training.lr_schedule", "not one of its choices", "cosine"),
    ('[algorithm]\nloss_type = "dpao"\n', "mini.toml:2", "algorithm.loss_type", 'did you mean "dapo"?', "bnpo"),
    ('[data]\nsource = "gsm8"\n', "mini.toml:2", "data.source", 'did you mean "gsm8k"?', "arithmetic"),
    ('[reward]\ntype = "mine:score"\n', "mini.toml:2", "reward.type", "no module mine", "looked in"),
    ('[model]\nrevision = "???"\n', "mini.toml:2", "model.revision", "placeholder", "write the value"),
    ('[defaults]\nalgoritm = "grpo"\n', "mini.toml:2", "algoritm", "no group", "did you mean algorithm?"),
    ('[defaults]\n\nalgorithm = "maxr"\n', "mini.toml:3", "algorithm", "no such group file", "did you mean maxrl?"),
    ("[defaults]\nalgorithm = 1\n", "mini.toml:2", "defaults.algorithm", "whole number", "such as algorithm"),
    ("defaults = 1\n", "mini.toml:1", "defaults", "not a table", "[defaults]"),
    (
        '[defaults]\nmodel = "Qwen/Qwen3-8B"\n',
        "mini.toml:2",
        "model",
        "no group file",
        '[model] model = "Qwen/Qwen3-8B"',
    ),
    ('[defaults]\nalgorithm = "../x"\n', "mini.toml:2", "algorithm", "no group file", "picks a group file"),
    ('extends = "bas.toml"\n', "mini.toml:1", "", "no such file", "did you mean base.toml?"),
    ("extends = 3\n", "mini.toml:1", "extends", "not the name of a file", 'extends = "base.toml"'),
    ('extends = "mini.toml"\n', "mini.toml:1", "extends", "circle", "mini.toml → mini.toml"),
    ('extends = "wrong.toml"\n', "wrong.toml:2", "training.lrr", "no key", "did you mean lr?"),
    (
        '[defaults]\nalgorithm = "wrong"\n',
        "conf/algorithm/wrong.toml:3",
        "algorithm.clip_epss",
        "no key",
        "did you mean clip_eps?",
    ),
    (
        '[defaults]\nalgorithm = "headed"\n',
        "conf/algorithm/headed.toml:1",
        "algorithm",
        "sets keys of [algorithm] only",
        "remove the line",
    ),
    (
        '[defaults]\nalgorithm = "stray"\n',
        "conf/algorithm/stray.toml:3",
        "training",
        "sets keys of [algorithm] only",
        "conf/experiment/",
    ),
    (
        '[defaults]\nalgorithm = "partial"\n',
        "conf/algorithm/partial.toml",
        "algorithm.transform_mode",
        "does not set",
        'transform_mode = "none"',
    ),
    ('[defaults]\nalgorithm = "old"\n', "mini.toml:2", "algorithm", "TOML, not YAML", "old.toml"),
    ('[defaults]\nexperiment = "nested"\n', "conf/experiment/nested.toml:2", "experiment", "no group", "groups: model"),
]

GROUP_FILES = {
    "base.toml": "",
    "wrong.toml": "[training]\nlrr = 1\n",
    "conf/algorithm/wrong.toml": 'advantage_mode = "grpo"\ntransform_mode = "none"\nclip_epss = 0.1\n',
    "conf/algorithm/headed.toml": '[algorithm]\nadvantage_mode = "grpo"\ntransform_mode = "none"\n',
    "conf/algorithm/stray.toml": 'advantage_mode = "grpo"\ntransform_mode = "none"\n[training]\nlr = 1\n',
    "conf/algorithm/partial.toml": 'advantage_mode = "grpo"\n',
    "conf/algorithm/old.yaml": "advantage_mode: grpo\n",
    "conf/experiment/nested.toml": '[defaults]\nexperiment = "other"\n',
}


@pytest.fixture
def library(project):
    for name, text in GROUP_FILES.items():
        project.write(name, text)
    return project


@pytest.mark.parametrize(("text", "place", "key", "wrong", "fix"), FILE_CASES)
def test_a_mistake_in_a_file_names_line_key_and_fix(library, text, place, key, wrong, fix):
    library.write("mini.toml", text)
    problem = next(p for p in library.problems() if p.where == place)
    assert problem.key == key
    assert wrong in problem.message
    assert fix in str(problem)


ARGUMENT_CASES = [
    (["--steps", "4"], "--steps", "", "did you mean --max-steps"),
    (["--beta=3"], "--beta", "", "did you mean --kl-coef"),
    (["--max-step", "4"], "--max-step", "", "--max-steps"),
    (["--no-shuffle"], "--no-shuffle", "", "write --shuffle false"),
    (["--multirun"], "--multirun", "", "no such flag"),
    (["-m"], "-m", "", "no such flag"),
    (["--lr"], "--lr", "", "such as --lr 4e-05"),
    (["--lr", "--seed", "3"], "--lr", "", "a value is missing"),
    (["--lr", "fast"], "--lr fast", "training.lr", "try --lr 4e-05"),
    (["--lr", "nan"], "--lr nan", "training.lr", "not finite"),
    (["training.lr=inf"], "training.lr=inf", "training.lr", "not finite"),
    (["training.lr="], "training.lr=", "training.lr", "is empty"),
    (["--group-size", "1"], "--group-size 1", "training.group_size", "try --group-size 2"),
    (["training.max_steps=4.7"], "training.max_steps=4.7", "training.max_steps", "try training.max_steps=4"),
    (["training.max_steps='8'"], "training.max_steps='8'", "training.max_steps", "drop the quotes"),
    (["--shuffle=yes"], "--shuffle=yes", "training.shuffle", "try --shuffle true"),
    (["--stop", "</a>"], "--stop </a>", "training.stop", "try --stop '[\"</a>\"]'"),
    (["training.stop=[a"], "training.stop=[a", "training.stop", "a comma or ] is missing"),
    (["--loss-type", "dpao"], "--loss-type dpao", "algorithm.loss_type", 'did you mean "dapo"?'),
    (["training.lrr=1"], "training.lrr=…", "training.lrr", "did you mean training.lr?"),
    (["+training.foo=1"], "+training.foo=…", "training.foo", "its keys: seed"),
    (["trainig.lr=1"], "trainig.lr=…", "trainig.lr", "did you mean training.lr?"),
    (["lr=1"], "lr=…", "lr", "--lr VALUE"),
    (["training=1"], "training=…", "training", "a section, not a key"),
    (["algoritm=grpo"], "algoritm=grpo", "algoritm", "did you mean algorithm?"),
    (["algorithm=grpp"], "algorithm=grpp", "algorithm", "did you mean grpo?"),
    (["model=Qwen/Qwen3-8B"], "model=Qwen/Qwen3-8B", "model", "for a hub id write --model Qwen/Qwen3-8B"),
    (["~training.lr"], "~training.lr", "training.lr", "training.lr=4e-05 is its default"),
    (["~algorithm"], "~algorithm", "algorithm", "choose another file"),
    (["~training.lrr"], "~training.lrr", "training.lrr", "did you mean training.lr?"),
    (["~backend.options.x"], "~backend.options.x", "backend.options", "no x to remove"),
    (["~backend.options.x=1"], "~backend.options.x=1", "backend.options.x", "write ~backend.options.x"),
    (["backend.options={}"], "backend.options={}", "backend.options", "changes nothing"),
    (["--backend-opt", "threads"], "--backend-opt threads", "", "NAME=VALUE"),
    (["logging.tags.a b=1"], "logging.tags.a b=1", "logging.tags.a b", "set it in the TOML"),
    (["training.lr"], "training.lr", "", "did you mean training.lr=VALUE?"),
    ([""], '""', "", "write key=value"),
    ([" "], '" "', "", "write key=value"),
    (["other.toml"], "other.toml", "", 'extends = "other.toml"'),
    (["--config-dir", "cnf"], "--config-dir cnf", "", "did you mean conf?"),
    (
        ["--tracking-uri", "${oc.env:NOPE_X}"],
        "--tracking-uri ${oc.env:NOPE_X}",
        "logging.tracking_uri",
        "export NOPE_X=…",
    ),
    (["--lr", "${training.lrr}"], "--lr ${training.lrr}", "training.lr", "no key training.lrr"),
    (["--lr", "${model.model}"], "--lr ${model.model}", "training.lr", "a number of at least 0 is needed"),
    (["--group-size", "${oc.decode:'1'}"], "--group-size ${oc.decode:'1'}", "training.group_size", "out of range"),
    (["--run-name", "${a:'b',\"c\"}"], "--run-name ${a:'b',\"c\"}", "logging.run_name", "set it in the TOML"),
    (["--run-name", "a ${ b"], "--run-name a ${ b", "logging.run_name", "write \\${"),
    (["--run-name", "${logging.run_name}"], "--run-name ${logging.run_name}", "logging.run_name", "back to itself"),
]


@pytest.mark.parametrize(("arguments", "typed", "key", "fix"), ARGUMENT_CASES)
def test_a_mistake_on_the_command_line_is_named_as_it_was_typed(library, arguments, typed, key, fix):
    [problem] = library.problems(*arguments)
    assert problem.where == f"command line: {typed}"
    assert problem.key == key
    assert fix in str(problem)


def test_all_problems_of_files_and_arguments_are_listed_at_once(library):
    library.write("mini.toml", '[training]\nlrr = 1\nmax_stepss = 1\n[modle]\nx = 1\n[defaults]\nalgorithm = "wrong"\n')
    found = library.problems("--steps", "4", "training.lr=fast")
    assert [p.where for p in found] == [
        "command line: --steps",
        "command line: training.lr=fast",
        "conf/algorithm/wrong.toml:3",
        "mini.toml:2",
        "mini.toml:3",
        "mini.toml:4",
    ]
    assert all(p.topic == "configuration" for p in found)


def test_files_that_cannot_be_read_say_why(project):
    project.write("folder/a.toml", "")
    project.write("mini.toml", "")
    (project.root / "latin.toml").write_bytes(b"[training]\n# caf\xe9\n")
    [missing] = project.problems(toml="mni.toml")
    assert missing.message == "there is no file mni.toml"
    assert missing.hint == "did you mean mini.toml?"
    [folder] = project.problems(toml="folder")
    assert "is a directory" in folder.message
    assert "folder/a.toml" in folder.hint
    [latin] = project.problems(toml="latin.toml")
    assert latin.where == "latin.toml:2"
    assert "UTF-8" in latin.message


def test_a_line_of_dotenv_that_sets_nothing_is_named_but_not_shown(project):
    project.write(".env", "GOOD=1\nsk-abc123\n")
    [problem] = project.problems()
    assert problem.where == ".env:2"
    assert "sk-abc123" not in str(problem)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('[backend.options]\napi_key = "sk-abc"\n', []),
        ('[data.chat_template_args]\nnested = { HfToken = "sk-abc" }\n', []),
        ('[data.chat_template_args]\npasswords = ["sk-abc"]\n', []),
        ("[data.chat_template_args]\npassword = 123456\n", []),
        ("", ["--backend-opt", "API_KEY=sk-abc"]),
        ("", ["backend.options.my_secret=sk-abc"]),
        ("", ["backend.options={credential: sk-abc}"]),
        ('[data.chat_template_args]\napi_key = "${oc.env:X,sk-abc}"\n', []),
    ],
)
def test_a_secret_that_is_written_out_is_refused_and_not_echoed(project, text, arguments):
    project.write("mini.toml", text)
    problems = project.problems(*arguments)
    assert any("is a secret" in p.message and "${oc.env:" in p.hint for p in problems)
    assert not any("sk-abc" in str(p) or "123456" in str(p) for p in problems)


def test_a_count_of_tokens_is_no_secret(project):
    assert project.value("data.chat_template_args", "data.chat_template_args.max_tokens=512") == {"max_tokens": 512}
