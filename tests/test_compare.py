"""From directories to verdicts: what is read, what counts, and when nothing may be said."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from retrain import compare, study
from retrain.errors import ConfigError
from tests.made_runs import STEPS, many, write_campaign, write_run

BASE = {1: 0.50, 2: 0.52, 3: 0.48, 4: 0.51, 5: 0.49}
UP = {1: 0.61, 2: 0.62, 3: 0.59, 4: 0.60, 5: 0.60}


def judged(root: Path, scores, **options) -> compare.Verdicts:
    floor = options.pop("floor", False)
    return compare.judge(compare.load([write_campaign(root, scores, **options)], floor=floor))


def only(verdicts: compare.Verdicts) -> compare.Comparison:
    [comparison] = verdicts.comparisons
    return comparison


# --- what is compared -------------------------------------------------------------------------------------------------


def test_the_sleep_data_as_a_campaign_give_the_published_numbers(tmp_path):
    """Student (1908): difference 1.58, 95 % 0.700 to 2.460, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    scores = {"drug1": dict(enumerate(first)), "drug2": dict(enumerate(second))}
    found = only(judged(tmp_path, scores))
    assert found.difference == pytest.approx(1.58)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.verdict, len(found.seeds)) == ("better", 10)
    assert found.improvement == pytest.approx(0.95)  # nine ahead, one tie


def test_the_value_is_that_of_the_planned_last_step_and_of_no_other(tmp_path):
    run = write_run(tmp_path / "r", 0.6, seed=1)
    [read] = compare.load([run, write_run(tmp_path / "s", 0.6, seed=1, config={"training": {"lr": 1.0}})]).runs[:1]
    assert study.at_last_step(read, "eval/score") == 0.6
    short = write_run(tmp_path / "short", 0.6, seed=1, steps=STEPS // 2)
    assert study.at_last_step(study._read(short, {}), "eval/score") is None


def test_a_comparison_is_paired_on_common_seeds_only(tmp_path):
    found = only(judged(tmp_path, {"a": BASE, "b": UP | {9: 100.0}}))
    assert list(found.seeds) == [1, 2, 3, 4, 5]
    assert found.difference == pytest.approx(np.mean([UP[s] - BASE[s] for s in BASE]))


def test_the_declared_baseline_comes_first_and_the_declared_metric_is_compared(tmp_path):
    verdicts = judged(tmp_path, {"a": BASE, "b": UP}, baseline="b", metric="reward/mean")
    assert verdicts.study.labels[0] == "b"
    assert verdicts.study.metric == "reward/mean"
    assert only(verdicts).verdict == "worse"
    assert compare.load([tmp_path], "entropy/mean").metric == "entropy/mean"


def test_secondary_measures_are_what_their_names_say(tmp_path):
    """Rewards rise linearly to r at step 20: their mean is r (1 + ... + 20) / 400, that of the last two r 39/40."""
    verdicts = judged(tmp_path, {"a": dict.fromkeys(BASE, 0.4), "b": dict.fromkeys(BASE, 0.8)})
    named = {one.name: one for one in verdicts.secondary}
    assert named["training reward, area"].means["b"] == pytest.approx(0.8 * 210 / 400)
    assert named["training reward, end"].means["b"] == pytest.approx(0.8 * 39 / 40)


def test_equal_tokens_stop_where_the_cheapest_run_ended(tmp_path):
    """b spends twice the tokens: at a's total it is at half of its steps, where its score was half."""
    for seed in BASE:
        write_run(tmp_path / f"a{seed}", 0.4, seed=seed, tokens=100.0, config={"training": {"lr": 1.0}})
        write_run(tmp_path / f"b{seed}", 0.8, seed=seed, tokens=200.0, config={"training": {"lr": 2.0}})
    verdicts = compare.judge(compare.load(sorted(tmp_path.iterdir())))
    named = {one.name: one.means for one in verdicts.secondary}
    assert named["equal tokens"] == pytest.approx({"lr=1.0": 0.4, "lr=2.0": 0.4})
    assert named["equal time"] == pytest.approx({"lr=1.0": 0.4, "lr=2.0": 0.8})


# --- when nothing may be said -----------------------------------------------------------------------------------------


def test_three_common_seeds_are_too_few(tmp_path):
    few = {s: BASE[s] for s in (1, 2, 3)}
    found = only(judged(tmp_path, {"a": few, "b": UP}))
    assert (found.verdict, found.reason) == ("no verdict", "3 common seeds, and it takes 4")
    assert only(judged(tmp_path / "four", {"a": {s: BASE[s] for s in (1, 2, 3, 4)}, "b": UP})).verdict == "better"


@pytest.mark.parametrize("state", ["planned", "running", "interrupted"])
def test_while_a_run_is_missing_there_is_no_verdict(tmp_path, state):
    verdicts = judged(tmp_path, {"a": BASE, "b": UP | {6: state}})
    assert only(verdicts).verdict == "no verdict"
    assert verdicts.headline == "No verdict: 1 of 11 planned runs are not finished."
    assert only(verdicts).difference == pytest.approx(0.104)  # shown all the same


def test_conditions_that_lost_runs_unequally_are_not_judged(tmp_path):
    lost = judged(tmp_path, {"a": BASE | {6: 0.5}, "b": UP | {6: "failed"}})
    assert only(lost).verdict == "no verdict"
    assert "lost runs unequally (b 1 of 6, a 0 of 6)" in only(lost).reason
    equally = judged(tmp_path / "equally", {"a": BASE | {6: "failed"}, "b": UP | {7: "failed"}})
    assert only(equally).verdict == "better"


def test_failures_at_the_floor_count_with_the_lowest_value_or_zero(tmp_path):
    scores = {"a": BASE | {6: 0.5}, "b": UP | {6: "failed"}}
    found = compare.judge(compare.load([write_campaign(tmp_path, scores)], floor=True))
    assert only(found).reason == ""
    assert found.conditions[1].values[6] == 0.0
    below = {"a": BASE | {6: -0.3}, "b": UP | {6: "failed"}}
    assert judged(tmp_path / "below", below, floor=True).conditions[1].values[6] == -0.3


def test_a_run_that_is_done_without_the_metric_is_lost(tmp_path):
    verdicts = judged(tmp_path, {"a": BASE, "b": UP | {5: None}})
    assert [(c.finished, c.lost) for c in verdicts.conditions] == [(5, 0), (4, 1)]
    assert "unequally" in only(verdicts).reason


def test_a_secondary_difference_that_is_the_same_on_all_seeds_has_no_interval(tmp_path):
    verdicts = judged(tmp_path, {"a": dict.fromkeys(BASE, 0.25), "b": dict.fromkeys(BASE, 0.5)})
    difference, low, high = verdicts.secondary[0].differences["b"]
    assert difference == pytest.approx(0.25 * 39 / 40)
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_condition_that_varies_much_more_than_the_baseline_is_warned_of(tmp_path):
    wild = {seed: 0.5 + 5 * (value - 0.5) for seed, value in BASE.items()}
    [warning] = judged(tmp_path, {"a": BASE, "b": wild}).warnings
    assert warning.startswith("b varies 5.0 times as much over seeds as a: ")
    [warning] = judged(tmp_path / "turned", {"a": wild, "b": BASE}).warnings
    assert warning.startswith("a varies 5.0 times as much over seeds as b: ")
    assert judged(tmp_path / "even", {"a": BASE, "b": UP}).warnings == []


def test_the_same_difference_on_all_seeds_cannot_be_judged(tmp_path):
    found = only(judged(tmp_path, {"a": dict.fromkeys(BASE, 0.25), "b": dict.fromkeys(BASE, 0.5)}))
    assert found.verdict == "cannot tell"
    assert "the same on all 5 seeds" in found.sentence


# --- words ------------------------------------------------------------------------------------------------------------


def test_cannot_tell_says_what_could_be_seen_and_how_many_seeds_it_takes(tmp_path):
    near = {s: v + (0.02 if s % 2 else -0.02) for s, v in BASE.items()}
    found = only(judged(tmp_path, {"a": BASE, "b": near}, min_effect=0.02))
    assert found.verdict == "cannot tell"
    assert f"see a difference of {found.detectable:.2g} with 80 % power" in found.sentence
    assert found.seeds_needed is not None
    assert f"0.02 would take {found.seeds_needed} seeds" in found.sentence
    assert found.detectable_low < found.detectable < found.detectable_high


def test_equivalent_names_the_margin_and_the_headline_counts_the_others(tmp_path):
    same = {s: v + (1e-4 if s % 2 else -1e-4) for s, v in BASE.items()}
    verdicts = judged(tmp_path, {"a": BASE, "same": same, "up": UP}, min_effect=0.02)
    assert [c.verdict for c in verdicts.comparisons] == ["equivalent", "better"]
    assert "equivalent within ±0.02" in verdicts.comparisons[0].sentence
    assert verdicts.headline.startswith("up is better than a: +0.104")
    assert verdicts.headline.endswith(". The other one: equivalent.")
    assert compare.headline(tmp_path) == verdicts.headline


def test_the_document_is_json_without_a_number_that_json_cannot_hold(tmp_path):
    verdicts = judged(tmp_path, {"a": {1: 0.5}, "b": {1: 0.6}})
    text = json.dumps(compare.document(verdicts), allow_nan=False)
    assert json.loads(text)["comparisons"][0]["low"] is None
    assert math.isnan(only(verdicts).low)


# --- several campaigns and single runs --------------------------------------------------------------------------------


def test_single_runs_are_grouped_by_what_differs_but_for_seed_and_places(tmp_path):
    for seed, score in BASE.items():
        write_run(tmp_path / f"low{seed}", score, seed=seed, config={"training": {"lr": 1e-5}})
        write_run(tmp_path / f"top{seed}", UP[seed], seed=seed, config={"training": {"lr": 1e-4}})
    found = compare.load(sorted(tmp_path.iterdir()))
    assert list(found.labels) == ["lr=1e-05", "lr=0.0001"]
    assert list(found.compared) == ["training.lr"]
    assert only(compare.judge(found)).verdict == "better"


def test_by_pools_runs_of_one_seed_and_warns_of_what_differs_within(tmp_path):
    for seed, low in BASE.items():
        for lr in (1.0, 2.0):
            for mode, score in (("grpo", low), ("maxrl", UP[seed])):
                config = {"training": {"lr": lr}, "algorithm": {"advantage_mode": mode}}
                write_run(tmp_path / f"{mode}{lr}-{seed}", score + lr, seed=seed, config=config)
    verdicts = compare.judge(compare.load(sorted(tmp_path.iterdir()), by=["algorithm.advantage_mode"]))
    assert list(verdicts.study.labels) == ["advantage_mode=grpo", "advantage_mode=maxrl"]
    assert len(only(verdicts).seeds) == 5  # the seed stays the unit
    assert verdicts.conditions[0].values[1] == pytest.approx(BASE[1] + 1.5)
    assert "runs of advantage_mode=grpo differ in training.lr" in verdicts.warnings


def test_two_campaigns_that_share_conditions_keep_their_labels_and_add_seeds(tmp_path):
    first = write_campaign(tmp_path / "one", {"a": {1: 0.50, 2: 0.52}, "b": {1: 0.61, 2: 0.62}})
    second = write_campaign(tmp_path / "two", {"a": {3: 0.48, 4: 0.51}, "b": {3: 0.59, 4: 0.60}})
    found = compare.load([first, second])
    assert list(found.labels) == ["a", "b"]
    assert only(compare.judge(found)).verdict == "better"


def test_a_run_that_is_planned_in_one_campaign_hides_nothing_of_another(tmp_path):
    first = write_campaign(tmp_path / "one", {"a": BASE, "b": UP})
    second = write_campaign(tmp_path / "two", {"a": {1: "planned", 9: "planned"}, "b": dict.fromkeys(UP, "planned")})
    verdicts = compare.judge(compare.load([first, second]))
    assert [(c.label, c.planned, c.finished) for c in verdicts.conditions] == [("a", 7, 5), ("b", 10, 5)]
    assert [dict(c.values) for c in verdicts.conditions] == [pytest.approx(BASE), pytest.approx(UP)]
    assert only(verdicts).reason == "7 of 17 planned runs are not finished"
    assert "a has several runs of one seed: their mean is one value" not in verdicts.warnings


def test_a_planned_run_of_a_label_that_two_campaigns_use_differently_belongs_to_its_own(tmp_path):
    first = write_campaign(tmp_path / "one", {"a": BASE, "b": UP})
    second = write_campaign(tmp_path / "two", {"b": BASE | {9: "planned"}, "c": UP})
    found = compare.load([first, second])
    [planned] = [run for run in found.runs if run.state == "planned"]
    assert planned.label == "advantage_mode=mode0"  # as the other runs of "b" in two


def test_a_difference_beyond_the_compared_keys_is_warned_of(tmp_path):
    root = write_campaign(tmp_path, {"a": BASE, "b": UP})
    assert compare.judge(compare.load([root])).warnings == []
    for run in (root / "runs").glob("b_*"):
        text = (run / "config.toml").read_text().replace("lr = 1e-05", "lr = 0.5")
        (run / "config.toml").write_text(text)
    [warning] = compare.judge(compare.load([root])).warnings
    assert "also differ in training.lr" in warning


def test_a_shared_key_that_some_conditions_have_no_use_for_is_no_difference_between_them(tmp_path):
    root = write_campaign(tmp_path, {"a": BASE, "b": UP, "c": UP})
    for run in (root / "runs").iterdir():
        steps = -1 if run.name.startswith("a") else 7
        (run / "config.toml").write_text((run / "config.toml").read_text() + f"\n[sepa]\nsteps = {steps}\n")
    assert compare.judge(compare.load([root])).warnings == []
    for run in (root / "runs").glob("c_*"):
        text = (run / "config.toml").read_text().replace("steps = 7", "steps = 8")
        (run / "config.toml").write_text(text)
    [warning] = compare.judge(compare.load([root])).warnings
    assert "also differ in sepa.steps" in warning


def test_versions_and_commits_that_differ_are_warned_of(tmp_path):
    one = write_run(tmp_path / "1", 0.5, seed=1, versions={"torch": "2.1"}, git={"commit": "a" * 40, "dirty": True})
    two = write_run(tmp_path / "2", 0.5, seed=1, versions={"torch": "2.2"}, config={"training": {"lr": 3.0}})
    warnings = compare.judge(compare.load([one, two])).warnings
    assert "the runs were made with different torch: 2.1, 2.2" in warnings


@pytest.mark.parametrize(
    ("by", "said"), [(["training.lrr"], 'did you mean "training.lr"?'), (["training.lr"], "one condition")]
)
def test_what_cannot_be_grouped_is_an_error(tmp_path, by, said):
    runs = [write_run(tmp_path / str(seed), 0.5, seed=seed) for seed in (1, 2)]
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        compare.load(runs, by=by)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_torn_lines_missing_files_and_an_unknown_metric_raise_nothing(tmp_path):
    root = write_campaign(tmp_path, many(2, 4))
    run = root / "runs" / "grpo+none_s1"
    with (run / "metrics.jsonl").open("a") as handle:
        handle.write('not json\n[1]\n{"step": 21, "eval/sc')
    (root / "runs" / "grpo+none_s2" / "config.toml").unlink()
    (root / "runs" / "grpo+none_s3" / "run.json").write_text("{")
    assert compare.judge(compare.load([root])).comparisons


def test_a_metric_that_no_run_has_is_an_error_that_names_those_they_have(tmp_path):
    root = write_campaign(tmp_path / "done", many(2, 4))
    with pytest.raises(ConfigError, match=r'--metric = "eval/scores" .* did you mean "eval/score"') as caught:
        compare.load([root], "eval/scores")
    assert "reward/mean" in caught.value.problems[0].hint
    going = write_campaign(tmp_path / "going", {"a": {1: "running"}, "b": {1: "running"}})
    [warning] = compare.judge(compare.load([going], "eval/scores")).warnings  # it may still come
    assert warning == "no run has eval/scores; did you mean eval/score?"
    declared = write_campaign(tmp_path / "declared", many(2, 4), metric="test/score")
    assert "no run has test/score" in compare.judge(compare.load([declared])).warnings[0]


def test_a_damaged_manifest_is_named(tmp_path):
    root = write_campaign(tmp_path, many(2, 4))
    (root / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match=r"manifest\.json cannot be read"):
        compare.load([root])
    assert compare.headline(root).startswith("No verdict: ")
