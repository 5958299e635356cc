"""A campaign is composed and checked whole before anything starts."""

from pathlib import Path

import pytest

from retrain.campaign import plan
from retrain.config import compose
from retrain.config.campaign import ABLATION
from retrain.errors import ConfigError

BASE = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[training]
max_steps = 9
lr = 1e-3
"""
TWO = """
[campaign]
seeds = [1, 2]
[[campaign.conditions]]
advantage_mode = "grpo"
[[campaign.conditions]]
name = "hot"
overrides = ["algorithm=maxrl_gtpo", "training.temperature=1.1"]
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(text, *arguments, base=BASE):
        Path("abl.toml").write_text(base + text)
        return plan.make(Path("abl.toml"), arguments)

    return make


def config(made, name):
    return next(cell for cell in made.cells if cell.name == name).composed.config


def problems(planned, text, *arguments, base=BASE):
    with pytest.raises(ConfigError) as refused:
        planned(text, *arguments, base=base)
    return refused.value.problems


def test_conditions_times_seeds_each_with_a_directory_of_its_own(planned):
    made = planned(TWO)
    assert [cell.name for cell in made.cells] == ["grpo+none_s1", "grpo+none_s2", "hot_s1", "hot_s2"]
    assert len({cell.key for cell in made.cells}) == 4
    hot = config(made, "hot_s2")
    assert (hot.algorithm.advantage_mode, hot.algorithm.transform_mode) == ("maxrl", "gtpo")
    assert (hot.training.seed, hot.training.temperature, hot.training.lr) == (2, 1.1, 1e-3)
    assert hot.logging.log_dir == str(made.root / "runs" / "hot_s2")
    assert hot.logging.run_name == "hot_s2"
    assert made.root.parent == Path("outputs/abl")


def test_without_conditions_it_is_the_ablation_of_five_with_eight_seeds(planned):
    made = planned("[campaign]\n")
    assert [c.label for c in made.conditions] == [f"{baseline}+{transform}" for baseline, transform in ABLATION]
    assert len(made.cells) == 40


@pytest.mark.parametrize(
    ("condition", "key", "value"),
    [
        ("lr = 2e-3", "training.lr", 2e-3),
        ('"training.lr" = 2e-3', "training.lr", 2e-3),
        ("training = { lr = 2e-3 }", "training.lr", 2e-3),
        ('algorithm = "maxrl"', "algorithm.advantage_mode", "maxrl"),
        ('overrides = ["--lr=2e-3"]', "training.lr", 2e-3),
        ("backend = { options = { threads = 1 } }", "backend.options", {"threads": 1}),
        ("shuffle = false", "training.shuffle", False),
        ('stop = ["a,b", "it\'s"]', "training.stop", ["a,b", "it's"]),
        ('"model.revision" = "1e5"', "model.revision", "1e5"),
    ],
)
def test_a_condition_says_it_in_any_of_these_ways(planned, condition, key, value):
    base = BASE.replace("builtin:tiny", "org/name") if "revision" in key else BASE
    made = planned(f"[campaign]\nseeds = [1]\n[[campaign.conditions]]\nname = 'a'\n{condition}\n", base=base)
    section, _, leaf = key.partition(".")
    assert getattr(getattr(config(made, "a_s1"), section), leaf) == value


@pytest.mark.parametrize(
    ("campaign", "condition", "arguments", "steps"),
    [
        ("", "", [], 9),
        ("max_steps = 5", "", [], 5),
        ("max_steps = 5", "max_steps = 6", [], 6),
        ("max_steps = 5", "max_steps = 6", ["--max-steps", "7"], 7),
        ("max_steps = 5", "", ["campaign.max_steps=8"], 8),
    ],
)
def test_files_then_the_campaign_then_a_condition_then_the_command_line(planned, campaign, condition, arguments, steps):
    text = f"[campaign]\nseeds = [1]\n{campaign}\n[[campaign.conditions]]\nname = 'a'\n{condition}\n"
    assert config(planned(text, *arguments), "a_s1").training.max_steps == steps


def test_a_group_choice_of_the_command_line_beats_a_condition(planned):
    text = "[campaign]\nseeds = [1]\n[[campaign.conditions]]\nname = 'a'\nalgorithm = 'maxrl_gtpo'\n"
    assert config(planned(text, "algorithm=rloo"), "a_s1").algorithm.advantage_mode == "rloo"


def test_one_cell_can_be_picked(planned):
    assert [cell.name for cell in planned(TWO, "condition=hot", "training.seed=2").cells] == ["hot_s2"]
    assert [cell.name for cell in planned(TWO, "training.seed=7").cells] == ["grpo+none_s7", "hot_s7"]


def test_keys_of_the_campaign_are_set_from_the_command_line(planned):
    made = planned(TWO, "campaign.seeds=[7,8,9]", "campaign.max_workers=3", "condition=hot")
    assert [cell.seed for cell in made.cells] == [7, 8, 9]
    assert made.campaign.max_workers == 3
    assert "did you mean" in problems(planned, TWO, "campaign.max_worker=3")[0].message


def test_a_log_dir_and_an_adapter_path_become_roots(planned):
    base = BASE + '[logging]\nlog_dir = "logs/x"\n[backend]\nadapter_path = "adapters/x"\n'
    made = planned(TWO, base=base)
    assert made.root == Path("logs/x")
    assert config(made, "hot_s1").backend.adapter_path == "adapters/x/hot_s1"


def test_what_an_interpolation_of_the_seed_gives_differs_by_seed(planned):
    base = BASE + '[logging]\nexperiment = "seed ${training.seed}"\n'
    made = planned(TWO, base=base)
    assert [config(made, f"hot_s{seed}").logging.experiment for seed in (1, 2)] == ["seed 1", "seed 2"]


def test_everything_wrong_is_named_at_once_with_its_line(planned):
    text = """[campaign]
seeds = [1, 1]
max_worker = 2
[[campaign.conditions]]
name = "a b"
advantage_mod = "grpo"
[[campaign.conditions]]
overrides = ["algorithm=maxrll", "training.seed=3"]
lr = "x"
"""
    found = problems(planned, text)
    said = {problem.line: problem.message for problem in found}
    assert all(problem.file == "abl.toml" for problem in found)
    assert "holds 1 twice" in said[10]
    assert "did you mean max_workers?" in said[11]
    assert "cannot name a folder" in said[12]
    assert "did you mean advantage_mode?" in said[14]
    assert any("did you mean maxrl?" in problem.message for problem in found)
    assert any("cannot set training.seed" in problem.message for problem in found)
    assert "a number" in said[17]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[campaign]\nseeds = []\n", "seeds is empty"),
        ("[campaign]\nseeds = [-1]\n", "holds -1"),
        ("[campaign]\nseeds = [1.5]\n", "holds 1.5"),
        ("[campaign]\nconditions = []\n", "conditions is empty"),
        ("[campaign]\nmax_workers = 0\n", "out of range"),
        ("[campaign]\nbaseline = 'grpp+none'\n", 'did you mean "grpo+none"?'),
        ("[campaign]\n[[campaign.conditions]]\nlr = 1e-5\n[[campaign.conditions]]\nlr = 2e-5\n", 'called "grpo+none"'),
        (
            "[campaign]\nconditions = [{ name = 'a', lr = 1e-5 }, { name = 'b', lr = 1e-5 }]\n",
            "are the same run",
        ),
        ("[campaign]\n[[campaign.conditions]]\nname = 'a'\nloss_type = 'cispo'\n", "clip_eps_high"),
        ("[campaign]\nmetric = 'eval/scor'\n", 'did you mean "eval/score"?'),
        ("[eval]\nevery = 0\n[campaign]\n", "will not be measured: eval.every = 0 turns evaluation off"),
        ("[campaign]\nmetric = 'eval/pass_at_4'\n", 'did you mean "eval/pass_at_1"?'),
        ("[campaign]\nmetric = 'policy/kl'\n", "algorithm.kl_coef is 0"),
        ("[campaign]\nmetric = 'test/score'\n", "set eval.final_test = true"),
        ("[campaign]\nmetric = 'reward/format'\n", "is no metric of these runs"),
        (
            "[campaign]\nmetric = 'sepa/lambda'\n",
            "sepa is not one of the transforms (in grpo+none, maxrl+gtpo, maxrl+gtpo_hicra, maxrl+none)",
        ),
    ],
)
def test_bad_campaigns_are_refused_before_anything_is_written(planned, tmp_path, text, said):
    assert any(said in f"{problem.message} {problem.hint}" for problem in problems(planned, text))
    assert [path.name for path in tmp_path.iterdir()] == ["abl.toml"]


def test_a_wrong_metric_is_named_where_it_was_given(planned):
    [written] = problems(planned, "[campaign]\nmetric = 'eval/scor'\n")
    assert (written.file, written.line, written.key) == ("abl.toml", 10, "campaign.metric")
    [typed] = problems(planned, "[campaign]\n", "campaign.metric=eval/scor")
    assert typed.file == "command line: campaign.metric=eval/scor"


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("", "eval/score_se"),
        ("[eval]\nsamples = 4\n", "eval/pass_at_4"),
        ("[algorithm]\nkl_coef = 0.1\n", "policy/kl"),
        ("[eval]\nfinal_test = true\n", "test/score"),
        ("[eval]\nreward = 'math'\n", "eval/reward"),
        ("[reward]\ntype = 'mine:score'\n", "reward/format"),  # a part of a reward of one's own: nobody knows before
    ],
)
def test_a_metric_that_runs_will_have_is_taken(planned, tmp_path, text, metric):
    (tmp_path / "mine.py").write_text("def score(response, reference):\n    return {'reward': 1.0, 'format': 1.0}\n")
    made = planned(f"{text}[campaign]\nmetric = '{metric}'\n")
    assert made.campaign.metric == metric


def test_a_batch_that_the_last_step_does_not_generate_cannot_decide(planned):
    """Of nine steps, two on each batch, the ninth generates; of eight, the eighth does not."""
    base = BASE + "[algorithm]\nnum_iterations = 2\n"
    assert planned("[campaign]\nmetric = 'reward/mean'\n", base=base).cells
    [found] = problems(planned, "[campaign]\nmetric = 'reward/mean'\nmax_steps = 8\n", base=base)
    assert "the last step generates nothing, with algorithm.num_iterations = 2" in found.message
    assert found.hint == "such as training.max_steps = 7"


def test_the_campaign_of_a_parent_is_inherited(planned, tmp_path):
    (tmp_path / "base.toml").write_text(BASE + TWO)
    (tmp_path / "child.toml").write_text('extends = "base.toml"\n[campaign]\nseeds = [5]\n')
    made = plan.make(Path("child.toml"))
    assert [cell.name for cell in made.cells] == ["grpo+none_s5", "hot_s5"]


SEPA = """
[sepa]
steps = 4
[campaign]
seeds = [1, 2]
[[campaign.conditions]]
advantage_mode = "grpo"
[[campaign.conditions]]
transform_mode = "gtpo_sepa"
"""


def test_a_shared_key_may_be_of_use_to_some_conditions_only(planned):
    made = planned(SEPA, "--gtpo-beta", "0.3")
    steps = {cell.name: (cell.composed.config.sepa.steps, cell.composed.config.gtpo.beta) for cell in made.cells}
    assert steps == {
        "grpo+none_s1": (-1, 0.1),
        "grpo+none_s2": (-1, 0.1),
        "grpo+gtpo_sepa_s1": (4, 0.3),
        "grpo+gtpo_sepa_s2": (4, 0.3),
    }
    for cell in made.cells:  # its own config.toml is a config without anything idle in it
        Path("again.toml").write_text(cell.composed.to_toml())
        assert compose(Path("again.toml")).config.sepa == cell.composed.config.sepa


def test_a_shared_key_that_no_condition_uses_is_refused_where_it_was_written(planned):
    found = problems(planned, SEPA.replace('"gtpo_sepa"', '"gtpo_hicra"'))
    assert {(problem.file, problem.key) for problem in found} == {("abl.toml", "sepa.steps")}


def test_a_key_of_a_condition_itself_has_to_be_of_use_to_it(planned):
    found = problems(planned, SEPA.replace('advantage_mode = "grpo"', "sepa_steps = 5"))
    assert [problem.key for problem in found] == ["sepa.steps"]
