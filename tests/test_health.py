"""Every rule: a sequence that breaks it, and one that comes close; what is told and kept is a function of the lines."""

import json
import random
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.config.schema import RunConfig
from retrain.health import RECOVERY, Health, rules


def lines(**series):
    """One line a step from `reward__mean=[…]`-like columns; None: the line lacks the key."""
    columns = {name.replace("__", "/"): values for name, values in series.items()}
    length = max(map(len, columns.values()))
    return [
        {"step": i + 1} | {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(length)
    ]


def watch(sequence, config=None):
    health = Health(config or RunConfig())
    told = [diagnosed for line in sequence for diagnosed in health.observe(line)]
    return health, told


def broken(sequence, config=None):
    """(rule, step at which it was told, step at which it was whole again) of every problem."""
    return [(p["rule"], p["step"], p["until"]) for p in watch(sequence, config)[0].problems]


def config_with(section, **values):
    config = RunConfig()
    for name, value in values.items():
        setattr(getattr(config, section), name, value)
    return config


def gaps(*values, se=0.01):
    """Evaluations at steps 0, 50, …: the first has no train reward yet, hence no gap."""
    first = [{"step": 0, "eval/score": 0.5, "eval/score_se": se}]
    return first + [{"step": 50 * i, "eval/gap": gap, "eval/score_se": se} for i, gap in enumerate(values, 1)]


START = [1.0, 2.0, 0.5, 1.5, 1.0]  # mean 1.2: the entropy's limit is 0.12

BREAKS = {
    "truncation": (3, lines(completion__truncated_rate=[0.51] * 3)),
    "uninformative": (5, lines(groups__informative=[0.0] * 5)),
    "entropy_collapse": (8, lines(entropy__mean=[*START, 0.11, 0.11, 0.11])),
    "unchanged_weights": (3, lines(policy__grad_norm=[0.3] * 3, policy__changed=[0.0] * 3)),
    "ratio": (1, lines(ratio__p50=[0.021], ratio__outside=[0.0])),
    "planning_share": (5, lines(planning__share=[0.004] * 5)),
    "length_correlation": (3, lines(reward__length_correlation=[-0.81] * 3)),
    "duplicates": (3, lines(completion__duplicate_rate=[0.81] * 3)),
    "reward_errors": (3, lines(reward__errors=[0.06] * 3)),
    "gap": (200, gaps(0.0, 0.01, 0.02, 0.029)),  # 2 √(0.01² + 0.01²) = 0.0283
}
HOLDS = {
    "truncation": lines(completion__truncated_rate=[0.9, 0.9, 0.5] * 4),
    "uninformative": lines(groups__informative=[0.0, 0.0, 0.0, 0.0, 0.01] * 4),
    "entropy_collapse": lines(entropy__mean=[*START, *[0.12] * 20]),
    "unchanged_weights": lines(policy__grad_norm=[0.3] * 12, policy__changed=[0.0, 0.0, 1e-3] * 4),
    "ratio": lines(ratio__p50=[0.02] * 4, ratio__outside=[0.25] * 4),
    "planning_share": lines(planning__share=[0.0, 0.0, 0.0, 0.0, 0.005] * 4),
    "length_correlation": lines(reward__length_correlation=[0.95, -0.95, 0.8] * 4),
    "duplicates": lines(completion__duplicate_rate=[0.99, 0.99, 0.8] * 4),
    "reward_errors": lines(reward__errors=[1.0, 1.0, 0.05] * 4),
    "gap": gaps(0.0, 0.01, 0.02, 0.028),
}


def test_every_rule_has_a_sequence_that_breaks_it_and_one_that_comes_close():
    names = {rule.name for rule in rules(RunConfig())}
    assert names == set(BREAKS) == set(HOLDS)


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_told_at_the_step_that_shows_it(name):
    step, sequence = BREAKS[name]
    health, told = watch(sequence)
    assert [(d.rule, d.step) for d in told] == [(name, step)]
    assert broken(sequence[:-1]) == []
    (problem,) = health.problems
    assert problem == {**asdict(told[0]), "until": None}
    assert json.loads(json.dumps(problem, allow_nan=False)) == problem


@pytest.mark.parametrize("name", BREAKS)
def test_a_message_has_numbers_and_a_hint_says_what_to_do(name):
    _, (told,) = watch(BREAKS[name][1])
    assert any(character.isdigit() for character in told.message)
    assert len(told.hint) > 20
    assert told.evidence


@pytest.mark.parametrize("name", HOLDS)
def test_what_only_comes_close_is_no_problem(name):
    assert broken(HOLDS[name]) == []


# --- details of single rules ----------------------------------------------------------------------------------------


def test_gross_ratios_outside_are_told_alone_and_off_policy_steps_are_not_judged():
    line = lines(ratio__p50=[0.0], ratio__outside=[0.26])
    assert broken(line) == [("ratio", 1, None)]
    assert broken(line, config_with("algorithm", num_iterations=2)) == []


def test_steps_without_a_gradient_neither_break_nor_mend_the_weights():
    changed, norm = [0.0, 0.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.3, 0.0, 0.3]
    assert broken(lines(policy__grad_norm=norm, policy__changed=changed)) == [("unchanged_weights", 5, None)]
    assert broken(lines(policy__grad_norm=[0.0] * 20, policy__changed=[0.0] * 20)) == []


def test_a_run_that_asks_for_a_learning_rate_of_zero_is_not_told_that_nothing_changes():
    _, sequence = BREAKS["unchanged_weights"]
    assert broken(sequence, config_with("training", lr=0.0)) == []


def test_a_correlation_of_a_handful_of_completions_says_nothing():
    _, sequence = BREAKS["length_correlation"]
    assert broken(sequence, config_with("training", batch_size=1, group_size=7)) == []
    assert broken(sequence, config_with("training", batch_size=1, group_size=8)) != []


def test_the_advice_for_groups_without_information_depends_on_which_side_they_are():
    easy = lines(groups__informative=[0.0] * 5, groups__all_correct=[0.9] * 5, groups__all_wrong=[0.1] * 5)
    hard = lines(groups__informative=[0.0] * 5, groups__all_correct=[0.1] * 5, groups__all_wrong=[0.9] * 5)
    assert "harder problems" in watch(easy)[1][0].hint
    assert "easier problems" in watch(hard)[1][0].hint


def test_completions_without_a_reward_count_like_errors():
    assert broken(lines(reward__errors=[0.0] * 3, reward__unscorable=[0.5] * 3)) == [("reward_errors", 3, None)]


def test_a_gap_must_rise_each_time_and_by_more_than_noise():
    assert broken(gaps(0.0, 0.3, 0.2, 0.4)) == []  # a rise that was interrupted
    assert broken(gaps(0.0, 0.1, 0.2, 0.3, se=0.2)) == []  # all within the error
    assert broken(gaps(0.3, 0.4, 0.5)) == []  # two rises
    assert broken(gaps(-0.3, -0.2, -0.1, 0.01)) == []  # the training mean lags behind, and catches up


def test_a_gap_is_whole_again_when_it_is_back_where_the_rise_began():
    assert broken(gaps(0.0, 0.1, 0.2, 0.3, 0.3, 0.1)) == [("gap", 200, None)]
    assert broken(gaps(0.0, 0.1, 0.2, 0.3, 0.3, 0.02)) == [("gap", 200, 300)]


def test_a_solved_problem_may_be_answered_with_certainty_and_alike():
    """As in the demo: nine of ten answers are right, and nearly all are the same."""
    certain = [*START, 0.01, 0.01, 0.01]
    assert broken(lines(entropy__mean=certain, reward__correct_rate=[0.9] * 8)) == []
    assert broken(lines(entropy__mean=certain, reward__correct_rate=[0.89] * 8)) == [("entropy_collapse", 8, None)]
    alike = {"completion__duplicate_rate": [0.95] * 3}
    assert broken(lines(**alike, reward__correct_rate=[0.85] * 3)) == []
    assert broken(lines(**alike, reward__correct_rate=[0.84] * 3)) == [("duplicates", 3, None)]


def test_each_limit_comes_from_its_key():
    """With every limit at its most permissive value only the rules without a key of their own can break."""
    free = config_with(
        "health",
        max_truncated_rate=1.0,
        max_uninformative_steps=10**6,
        min_entropy_ratio=0.0,
        max_unchanged_steps=10**6,
        max_length_correlation=1.0,
        max_duplicate_rate=1.0,
        min_planning_share=0.0,
    )
    still = [name for name, (_, sequence) in BREAKS.items() if broken(sequence, free)]
    assert still == ["ratio", "reward_errors", "gap"]


# --- episodes -------------------------------------------------------------------------------------------------------


def test_a_problem_ends_at_the_first_of_ten_sound_lines():
    rates = [0.9] * 4 + [0.1] * 9 + [0.9] + [0.1] * 10
    assert broken(lines(completion__truncated_rate=rates)) == [("truncation", 3, 15)]
    assert broken(lines(completion__truncated_rate=rates[:-1])) == [("truncation", 3, None)]


def test_what_was_returned_before_does_not_change_when_a_problem_ends():
    """Who writes run.json compares with what is written already."""
    sequence = lines(completion__truncated_rate=[0.9] * 3 + [0.1] * 10)
    health, _ = watch(sequence[:-1])
    before = health.problems
    health.observe(sequence[-1])
    assert (before[0]["until"], health.problems[0]["until"]) == (None, 4)


def test_a_problem_that_comes_back_is_a_second_entry():
    rates = ([0.9] * 3 + [0.1] * 10) * 2
    assert broken(lines(completion__truncated_rate=rates)) == [("truncation", 3, 4), ("truncation", 16, 17)]


def test_lines_that_lack_a_key_neither_break_nor_mend():
    rates = [0.9, None, 0.9, None, None, 0.9]
    assert broken(lines(completion__truncated_rate=rates)) == [("truncation", 6, None)]
    assert broken([{"step": 0, "time": 1.0}, {"step": 1}]) == []


def test_a_rate_that_hovers_around_its_limit_makes_few_entries():
    draw = random.Random(0)
    found = broken(lines(completion__truncated_rate=[draw.gauss(0.5, 0.1) for _ in range(1000)]))
    assert len(found) <= 3


KEYS = sorted({key for _, sequence in BREAKS.values() for line in sequence for key in line} - {"step"})
VALUES = st.sampled_from([0.0, 0.004, 0.02, 0.1, 0.5, 0.81, 1.0])


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=40), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_a_resumed_run_knows_what_the_one_before_knew(sequence, cut):
    """Replaying the lines up to the cut and going on live leaves what the uninterrupted run has, event for event."""
    sequence = [{"step": i + 1, **line} for i, line in enumerate(sequence)]
    whole, told = watch(sequence)
    resumed = Health(RunConfig())
    resumed.replay(json.loads(json.dumps(sequence[:cut])))
    assert [d for line in sequence[cut:] for d in resumed.observe(line)] == [d for d in told if d.step > cut]
    assert resumed.problems == whole.problems


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_rule_has_one_open_entry_at_most_and_ends_before_it_breaks_again(sequence):
    health, told = watch([{"step": i + 1, **line} for i, line in enumerate(sequence)])
    assert len(told) == len(health.problems)
    for name in BREAKS:
        entries = [problem for problem in health.problems if problem["rule"] == name]
        for before, after in pairwise(entries):
            assert before["step"] < before["until"] <= after["step"]
            assert name == "gap" or after["step"] - before["step"] >= RECOVERY
