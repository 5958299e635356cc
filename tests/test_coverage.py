"""The quick part of `scripts/coverage`, as CI runs it, and the rates that the manual publishes."""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import pytest

from retrain import manual

CAMPAIGNS = 4000  # three standard errors of a rate of 5 % are one percentage point
ERROR = 0.0105


def script():
    loader = SourceFileLoader("coverage_script", str(Path(__file__).parents[1] / "scripts" / "coverage"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


coverage = script()


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("name", coverage.RETURNS)
def test_returns_are_standardised(name, rng):
    values = coverage.RETURNS[name](rng, (400_000,))
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("n", coverage.SEEDS)
@pytest.mark.parametrize("name", coverage.REQUIRED)
def test_intervals_cover_between_93_and_97_percent(name, n, rng):
    draw = coverage.RETURNS[name]
    assert 0.93 < coverage.mean_coverage(draw, n, CAMPAIGNS, rng) < 0.97
    null = [0.0] * coverage.COMPARISONS
    d = coverage.differences(draw, null, n, CAMPAIGNS, rng)
    assert 0.93 < coverage.one_coverage(d, null) < 0.97
    assert coverage.joint_coverage(d, null) > 0.95 - ERROR


@pytest.mark.parametrize("n", coverage.SEEDS)
@pytest.mark.parametrize("name", coverage.REQUIRED)
@pytest.mark.parametrize("case", coverage.hard_cases(4))
def test_false_verdicts_are_at_most_6_percent_in_the_hardest_cases(name, n, case, rng):
    gains, margin, noise = coverage.hard_cases(n)[case]
    d = coverage.differences(coverage.RETURNS[name], gains, n, CAMPAIGNS, rng, noise=noise)
    assert coverage.false_verdicts(d, gains, margin) < 0.06 + ERROR


@pytest.mark.parametrize("n", coverage.SEEDS)
@pytest.mark.parametrize("name", coverage.RETURNS)
def test_false_verdicts_are_at_most_6_percent_for_returns_of_any_shape_that_conditions_share(name, n, rng):
    for case in ("nothing differs", "three differ, one does not"):
        gains, margin, _ = coverage.hard_cases(n)[case]
        d = coverage.differences(coverage.RETURNS[name], gains, n, CAMPAIGNS, rng)
        assert coverage.false_verdicts(d, gains, margin) < 0.06


@pytest.mark.parametrize("n", coverage.SEEDS)
@pytest.mark.parametrize("comparisons", [1, coverage.COMPARISONS])
def test_the_detectable_difference_is_seen_as_often_as_promised(n, comparisons, rng):
    seen = coverage.seen(coverage.normal, n, comparisons, CAMPAIGNS, rng)
    assert 0.78 < seen < 0.83


def test_the_published_rates_are_those_of_the_script(rng):
    """A rate from the tables of the manual is within four standard errors of a new simulation."""
    text = manual.read("compare")
    measures = {
        "returns": lambda draw, n: coverage.mean_coverage(draw, n, CAMPAIGNS, rng),
        "nothing differs": lambda draw, n: coverage.false_verdicts(
            coverage.differences(draw, [0.0] * 4, n, CAMPAIGNS, rng), [0.0] * 4, 0.0
        ),
        "one comparison": lambda draw, n: coverage.seen(draw, n, 1, CAMPAIGNS, rng),
    }
    for corner, measure in measures.items():
        lines = text.partition(f"\n| {corner} | 4 seeds |")[2].splitlines()[2:]
        rows = dict(zip(coverage.RETURNS, lines, strict=False))
        for name, line in rows.items():
            said, *rates = (cell.strip() for cell in line.strip("|").split("|"))
            assert said == name
            for n, rate in zip(coverage.SEEDS, rates, strict=True):
                found = measure(coverage.RETURNS[name], n)
                error = 4 * (max(found * (1 - found), 0.01) / CAMPAIGNS) ** 0.5
                assert float(rate) / 100 == pytest.approx(found, abs=error + 0.002), (corner, name, n)


@pytest.mark.parametrize("n", [4, 8, 20])
@pytest.mark.parametrize("name", ["32 problems, likings", "256 problems, no likings"])
def test_the_interval_for_other_problems_covers_between_93_and_97_percent_and_the_published_rate(name, n, rng):
    evaluation = coverage.EVALUATIONS[name]
    found = coverage.crossed_coverage("over seeds and problems", evaluation, n, evaluation.truth(rng), 1500, rng)
    assert 0.93 - ERROR < found < 0.97 + ERROR
    line = manual.read("compare").partition("\n| over seeds and problems | 4 seeds |")[2].partition(f"| {name} |")[2]
    said = dict(zip(coverage.SEEDS, line.partition("\n")[0].strip(" |").split("|"), strict=True))
    assert float(said[n]) / 100 == pytest.approx(found, abs=0.025)  # four standard errors


def test_the_interval_over_seeds_promises_nothing_about_other_problems(rng):
    evaluation = coverage.EVALUATIONS["32 problems, likings"]
    assert coverage.crossed_coverage("over seeds", evaluation, 20, evaluation.truth(rng), 1000, rng) < 0.8


def test_no_test_of_the_t_test_s_power_can_err_less_where_seeds_collapse(rng):
    """The bound of `scripts/other_tests`, at 8 seeds: 34 % of campaigns without a collapse, and the power at 1.25."""
    bound = (7 / 8) ** 8 * coverage.seeds.power(1.25, 8)
    d = coverage.differences(coverage.rare_collapse, [0.0], 8, 20_000, rng, noise=30.0)[0]
    assert (coverage.seeds.paired_p(d) <= 0.05).mean() == pytest.approx(bound, abs=0.02)
    assert f"| any, at least | | | | | 0.8 | {100 * bound:.1f} |" in manual.read("compare")


def test_the_published_detectable_differences_are_computed():
    lines = manual.read("compare").partition("\n| comparisons | 4 seeds |")[2].splitlines()[2:4]
    for line in lines:
        comparisons, *said = (cell.strip() for cell in line.strip("|").split("|"))
        assert said == [f"{coverage.seeds.detectable(n, int(comparisons)):.2f}" for n in coverage.SEEDS]
