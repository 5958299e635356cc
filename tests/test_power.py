"""The difference that so many seeds can detect, against scipy, which the commands that start at once do without."""

import pytest
from scipy import stats

from retrain import power, seeds


@pytest.mark.parametrize("number", [4, 5, 8, 20, 60])
@pytest.mark.parametrize("comparisons", [1, 2, 4, 9])
def test_the_detectable_difference_is_that_of_the_noncentral_t(number, comparisons):
    found = power.detectable_difference(number, comparisons)
    assert found == pytest.approx(seeds.detectable(number, comparisons), rel=1e-3)


@pytest.mark.parametrize("freedom", [3, 7, 30])
@pytest.mark.parametrize("shift", [0.0, 1.5, 4.0])
def test_the_chance_to_reject_is_that_of_scipy(freedom, shift):
    expected = stats.nct.sf(2.5, freedom, shift) + stats.nct.cdf(-2.5, freedom, shift)
    assert power.rejected(shift, 2.5, freedom) == pytest.approx(expected, rel=1e-5)


def test_more_seeds_detect_less_and_more_comparisons_more():
    by_seeds = [power.detectable_difference(number, 1) for number in (4, 8, 16)]
    by_comparisons = [power.detectable_difference(8, number) for number in (1, 2, 4)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_comparisons == sorted(by_comparisons)


def test_both_ways_to_say_it_mean_the_same():
    assert (power.ALPHA, power.POWER, power.FEWEST_SEEDS) == (seeds.ALPHA, seeds.POWER, seeds.FEWEST)
