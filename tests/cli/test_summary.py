"""The last words on a run: an honest verdict, what is wrong, where things are, what is next."""

import json
import random

import pytest
from scipy import stats

from retrain.cli.main import main
from retrain.cli.summary import change, held_out, student, summarise, verdict
from retrain.cli.train import tell, watched
from retrain.errors import ConfigError, RunError
from retrain.events import RunStarted
from retrain.store import RunRecord


def steps(values, **more):
    return [{"step": i, "reward/mean": value, **more} for i, value in enumerate(values, 1)]


def noisy(means, spread=0.05, seed=0):
    draw = random.Random(seed)
    return [draw.gauss(mean, spread) for mean in means]


TOML = """
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[training]
max_steps = 60
"""


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "outputs" / "mini" / "1"
    (directory / "rollouts").mkdir(parents=True)
    record(directory, state="done").write(directory)
    (directory / "config.toml").write_text(TOML)
    lines = steps(noisy([0.2 + 0.6 * i / 60 for i in range(60)]))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def record(directory, **changes):
    values = {"name": "mini 1", "seed": 42, "steps_done": 60, "max_steps": 60, "started": 0.0, "ended": 75.0}
    return RunRecord(**{**values, **changes})


def test_a_rise_is_called_learning_with_its_numbers():
    said = verdict(steps(noisy([0.25] * 30 + [0.8] * 30), **{"reward/correct_rate": 0.5}))
    assert said.startswith("it learned: reward 0.2")
    assert "→ 0.78" in said
    assert "first and the last 6 steps" in said
    assert "taken as independent" in said


def test_a_fall_is_called_worse():
    assert verdict(steps(noisy([0.8] * 30 + [0.25] * 30))).startswith("it got worse")


def test_noise_is_called_no_clear_change_in_all_but_a_few_of_many_runs():
    """At 1 % about 1 in 100 runs of pure noise is called a change: 10 expected in 1000, 25 is beyond 4 deviations."""
    said = [verdict(steps(noisy([0.5] * 60, seed=seed))) for seed in range(1000)]
    assert sum(not text.startswith("no clear change") for text in said) < 25


def test_constant_rewards_are_no_change_and_a_clean_step_is_one():
    assert verdict(steps([0.0] * 40)).startswith("no clear change")
    assert verdict(steps([0.0] * 20 + [1.0] * 20)).startswith("it learned")


def test_a_short_run_is_not_judged():
    assert "too few steps" in verdict(steps(noisy([0.2] * 4 + [0.9] * 5)))
    assert "too few steps" in verdict([])


def test_a_steep_rise_within_the_first_steps_is_learning_not_noise():
    """A curve like the demo's: nearly all of the rise is in the first fifth."""
    assert verdict(steps(noisy([0.2, 0.3, 0.5, 0.6, 0.75, 0.8, 0.85, 0.9] + [0.9] * 32))).startswith("it learned")


def test_without_a_trend_t_is_students_within_what_the_degrees_of_freedom_can_say():
    """The noise from successive differences is unbiased: over many series t² averages ν/(ν − 2), as Student's does."""
    found = [change(noisy([0.5] * 50, seed=seed)) for seed in range(2000)]
    freedom = 2 * 49**2 / (3 * 50 - 4)
    squares = [c.t**2 for c in found if c is not None]
    assert sum(squares) / 2000 == pytest.approx(freedom / (freedom - 2), rel=0.15)


def test_the_threshold_is_students_at_one_percent():
    found = change(noisy([0.5] * 50))
    assert found is not None
    assert found.critical == pytest.approx(stats.t.ppf(0.995, 2 * 49**2 / (3 * 50 - 4)), rel=0.001)


@pytest.mark.parametrize("freedom", [4, 5, 8, 15, 40, 1000])
def test_the_t_quantile_is_within_two_percent_of_the_exact_one(freedom):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.995, freedom), rel=0.02)


PROBLEM = {
    "rule": "truncation",
    "step": 7,
    "message": "70% of the completions are cut",
    "hint": "raise training.max_tokens",
    "evidence": {"completion/truncated_rate": 0.7},
    "until": None,
}


def test_each_problem_of_the_record_comes_with_when_and_advice(run_dir):
    record(run_dir, state="done", problems=[PROBLEM, {**PROBLEM, "step": 20, "until": 31}]).write(run_dir)
    text = summarise(run_dir)
    assert "  problem at step 7: 70% of the completions are cut; raise training.max_tokens\n" in text
    assert "  problem at step 20 to 31: 70%" in text


def test_a_healthy_run_has_no_problems_and_one_without_evaluation_no_held_out_score(run_dir):
    text = summarise(run_dir)
    assert "problem" not in text
    assert "held-out" not in text


def evaluated(*scores, every=30):
    """Lines of evaluations at steps 0, 30, …: the first comes before any training."""
    lines = [{"step": every * i, "eval/score": score, "eval/score_se": 0.03} for i, score in enumerate(scores)]
    return [line | ({"eval/gap": 0.05} if line["step"] else {}) for line in lines]


def test_the_held_out_score_stands_beside_the_verdict_with_gap_and_best_step():
    lines = evaluated(0.3, 0.65, 0.6)
    lines[-1] |= {"test/score": 0.59, "test/score_se": 0.02}
    last = "held-out 0.600 ± 0.030 at step 60, 0.300 ± 0.030 at step 0"
    assert held_out(lines, {"step": 30, "score": 0.65}) == [
        f"{last}; best 0.650 at step 30; train minus held-out +0.050",
        "test 0.590 ± 0.020",
    ]
    assert held_out(lines[:2], {"step": 30, "score": 0.65}) == [
        "held-out 0.650 ± 0.030 at step 30, 0.300 ± 0.030 at step 0; train minus held-out +0.050"
    ]
    assert held_out(lines[:1], None) == ["held-out 0.300 ± 0.030 at step 0"]


def test_lines_that_only_evaluate_do_not_count_as_steps(run_dir):
    lines = [*evaluated(0.3)[:1], *steps(noisy([0.25] * 30 + [0.8] * 30))]
    assert verdict(lines) == verdict(lines[1:])
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "it learned" in summarise(run_dir)


def test_what_is_worth_a_look_is_listed_where_it_exists(run_dir):
    (run_dir / "stacks.txt").touch()
    assert "stacks" not in summarise(run_dir)  # nothing stalled
    (run_dir / "stacks.txt").write_text("Thread")
    (run_dir / "adapter-best").mkdir()
    (run_dir / "debug").mkdir()
    (run_dir / "debug" / "step-4.pt").touch()
    text = summarise(run_dir)
    assert "best         outputs/mini/1/adapter-best" in text
    assert "stacks       outputs/mini/1/stacks.txt" in text
    assert "retrain debug-batch outputs/mini/1/debug/step-4.pt" in text


def test_the_summary_of_a_finished_run_says_where_things_are_and_what_is_next(run_dir):
    text = summarise(run_dir)
    assert "mini 1: done, 60 of 60 steps in 1:15" in text
    assert "it learned" in text
    assert "completions  outputs/mini/1/rollouts" in text
    assert "plots" not in text  # there are none
    assert "retrain outputs/mini/1/config.toml --seed 43" in text
    assert "retrain resume" not in text


def test_a_run_that_ended_early_is_told_to_resume(run_dir):
    record(run_dir, state="interrupted", steps_done=12).write(run_dir)
    text = summarise(run_dir)
    assert "mini 1: interrupted, 12 of 60 steps" in text
    assert "retrain resume outputs/mini/1" in text


def test_the_run_directory_is_the_only_line_on_stdout(run_dir, capsys):
    tell(run_dir)
    out, err = capsys.readouterr()
    assert out == "outputs/mini/1\n"
    assert "it learned" in err


def test_a_failed_run_is_summed_up_before_its_error(run_dir, capsys):
    def start(emit):
        emit(RunStarted(dir=run_dir, first_step=0, max_steps=60))
        record(run_dir, state="failed", steps_done=3).write(run_dir)
        raise RunError("step 4: policy/loss is nan")

    with pytest.raises(RunError):
        watched(start)
    out, err = capsys.readouterr()
    assert out == "outputs/mini/1\n"
    assert "mini 1: failed, 3 of 60 steps" in err


def test_input_that_is_wrong_before_the_run_exists_has_no_summary(run_dir, capsys):
    def start(emit):
        raise ConfigError("no such model")

    with pytest.raises(ConfigError):
        watched(start)
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_sums_up_and_passes_on(run_dir, capsys):
    def start(emit):
        emit(RunStarted(dir=run_dir, first_step=0, max_steps=60))
        record(run_dir, state="interrupted", steps_done=3).write(run_dir)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(start)
    assert "retrain resume outputs/mini/1" in capsys.readouterr().err


def test_resuming_a_finished_run_is_refused_with_what_to_type(run_dir, capsys):
    assert main(["resume", "mini"]) == 2
    assert "retrain outputs/mini/1/config.toml" in capsys.readouterr().err


def test_a_run_that_could_not_write_its_end_is_called_interrupted(run_dir):
    record(run_dir, state="running", steps_done=12, ended=None).write(run_dir)
    assert "mini 1: interrupted, 12 of 60 steps\n" in summarise(run_dir)
