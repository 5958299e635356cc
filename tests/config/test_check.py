"""Stage two: keys against each other. The resolved defaults, and every shipped combination, must pass."""

import pytest

CASES = [
    # arguments, place's key, what is wrong, the fix
    (
        ["algorithm=rloo", "--scale-rewards", "group"],
        "algorithm.scale_rewards",
        "has no effect",
        'scale_rewards = "none"',
    ),
    (["--loss-type", "cispo"], "algorithm.loss_type", "below 1", "clip_eps_high = 5.0"),
    (["--loss-type", "sapo", "--clip-eps", "0.1"], "algorithm.clip_eps", "has no effect", "leave clip_eps out"),
    (["--loss-type", "vespo", "--clip-eps-high", "1"], "algorithm.clip_eps_high", "has no effect", "leave"),
    (
        ["--loss-type", "vespo", "--importance-sampling-level", "sequence"],
        "algorithm.importance_sampling_level",
        "has no effect",
        "token",
    ),
    (["--loss-type", "sapo", "--delta", "2"], "algorithm.delta", "has no effect", "leave delta out"),
    (["--delta", "1.2"], "algorithm.delta", "not above 1 + clip_eps = 1.2", "try delta = 2.4"),
    (["--lora-rank", "0"], "model.lora_rank", "learning rate", "lr = 1e-6"),
    (["--lora-rank", "0", "--lr", "1", "--lora-alpha", "3"], "lora.alpha", "has no effect", "leave alpha out"),
    (
        ["--lora-rank", "0", "--lr", "1", "inference.weights=shadow"],
        "inference.weights",
        "no adapter",
        'weights = "shared"',
    ),
    (["data.source=jsonl"], "data.source", "needs a file", "path ="),
    (["data.source=jsonl", "data.path=rows.jsn"], "data.path", 'did you mean "rows.jsonl"?', "looked in"),
    (["data.source=jsonl", "data.path=sub"], "data.path", "is a folder", "name the .jsonl"),
    (
        ["data.source=jsonl", "data.path=rows.jsonl", "data.split=test"],
        "data.split",
        "has no effect",
        "leave split out",
    ),
    (["data.source=hf"], "data.source", "needs a data set", "name ="),
    (["data=arithmetic", "data.path=rows.jsonl"], "data.path", "has no effect", "leave path out"),
    (["data=gsm8k", "data.prompt_key=q"], "data.prompt_key", "has no effect", "leave prompt_key out"),
    (["reward=match", "reward.timeout=1"], "reward.timeout", "has no effect", "leave timeout out"),
    (["data=arithmetic", "reward.workers=2"], "reward.workers", "has no effect", "leave workers out"),
    (["--wandb-group", "g"], "logging.wandb_group", "wandb_project is empty", "set wandb_project too"),
    (["--keep-rollouts", "some"], "logging.keep_rollouts", "not a choice", "every so many steps"),
    (["--keep-rollouts", "0"], "logging.keep_rollouts", "not a choice", "every so many steps"),
    (["--devices", "gpu:0,gpu:1"], "backend.devices", "several devices", 'devices = "gpu:0"'),
    (["--devices", "gpu"], "backend.devices", "not a device", 'devices = "auto"'),
    (["--backend-opt", "thread=1"], "backend.options.thread", 'did you mean "threads"?', "its options:"),
    (["--backend-opt", "threads=many"], "backend.options.threads", "is text", "try backend.options.threads=0"),
    (["--backend-opt", "threads=-1"], "backend.options.threads", "out of range", "try backend.options.threads=0"),
    (["--warmup-steps", "500"], "training.warmup_steps", "not below training.max_steps = 500", "warmup_steps = 50"),
    (["training.stop=['']"], "training.stop", "empty text", "</answer>"),
    (["--model", "builtin:tinny"], "model.model", 'did you mean "builtin:tiny"?', "tiny"),
    (["--model", "./modle"], "model.model", 'did you mean "model"?', "folders there: model"),
    (["--model", "sub/modle"], "model.model", "does not exist", "org/name"),
    (["--model", "rows.jsonl"], "model.model", "is a file", "model = "),
    (["--model", "a b"], "model.model", "neither a folder nor a hub id", '"org/name"'),
    (["--model", "builtin:tiny", "--model-revision", "x"], "model.revision", "has no effect", "leave revision out"),
    (["--model", "model", "--model-revision", "x"], "model.revision", "has no effect", "leave revision out"),
]


@pytest.fixture
def folder(project):
    project.write("rows.jsonl", "{}\n")
    (project.root / "model").mkdir()
    (project.root / "sub").mkdir()
    return project


@pytest.mark.parametrize(("arguments", "key", "wrong", "fix"), CASES)
def test_keys_that_do_not_fit_together_are_refused(folder, arguments, key, wrong, fix):
    [problem] = folder.problems(*arguments)
    assert problem.key == key
    assert wrong in problem.message
    assert fix in problem.hint
    assert problem.where.startswith("command line: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--loss-type", "cispo", "--clip-eps-high", "5"],
        ["--delta", "1.5"],
        ["--scale-rewards", "batch"],
        ["--lora-rank", "0", "--lr", "1e-6"],
        ["--keep-rollouts", "10"],
        ["--devices", "cuda:1"],
        ["--devices", "0"],
        ["--model", "model"],
        ["--model", "gpt2"],
        ["data.source=jsonl", "data.path=rows.jsonl"],
        ["--wandb-project", "p", "logging.wandb_tags=[a]"],
        ["reward.timeout=2"],
        ["--top-p", "0.9"],
    ],
)
def test_keys_that_fit_together_pass(folder, arguments):
    folder.compose(*arguments)


def test_a_problem_is_at_the_line_of_the_value_and_all_are_listed_at_once(project):
    project.write("mini.toml", '[training]\nwarmup_steps = 600\nstop = [""]\n[backend]\ndevices = "tpu"\n')
    assert [p.where for p in project.problems()] == ["mini.toml:2", "mini.toml:3", "mini.toml:5"]


def test_a_learning_rate_that_a_file_gives_is_the_user_s_own_even_when_it_is_the_default(project):
    project.write("mini.toml", "[model]\nlora_rank = 0\n[training]\nlr = 4e-5\n")
    assert project.value("model.lora_rank") == 0


def test_a_backend_of_one_s_own_checks_its_options_itself(project):
    project.write("mine.py", "raise SystemExit('must not be imported')\n")
    project.write("mini.toml", '[backend]\nbackend = "mine:Backend"\noptions = { anything = 1 }\n')
    assert project.value("backend.options") == {"anything": 1}
