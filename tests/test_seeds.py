"""What a handful of seeds can tell, against textbooks, slow references and proofs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from retrain import power, seeds

# Student (1908), Biometrika 6: hours of sleep gained with two drugs by ten patients; the paired test is worked there.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = np.subtract(SECOND, FIRST)


def families():
    """Draw families of one to five comparisons on four to eight seeds."""
    values = st.integers(-1000, 1000).map(lambda v: v / 100)
    return st.tuples(st.integers(1, 5), st.integers(4, 8)).flatmap(
        lambda shape: arrays.arrays(float, shape, elements=values)
    )


def test_student_s_sleep_data_give_the_published_test_and_interval():
    mean, low, high = seeds.t_interval(SLEEP)
    assert mean == pytest.approx(1.58)
    assert (low, high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)  # R: t.test(extra ~ group, paired = TRUE)
    assert seeds.paired_p(SLEEP) == pytest.approx(0.002833, abs=1e-6)


def test_one_comparison_is_the_plain_paired_t_test():
    adjusted, (_, low, high), [verdict] = seeds.compare([SLEEP])
    assert float(adjusted[0]) == pytest.approx(0.002833, abs=1e-6)
    assert (float(low[0]), float(high[0])) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert seeds.VERDICTS[verdict] == "better"


# --- Holm -------------------------------------------------------------------------------------------------------------


def test_holm_s_worked_example():
    """Four p-values at 5 %: 0.005 and 0.01 pass 0.05/4 and 0.05/3, 0.03 fails 0.05/2, and there it ends."""
    assert seeds.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_never_above_one_and_never_falls():
    assert seeds.holm([0.9, 0.5, 0.6]).tolist() == [1.0, 1.0, 1.0]
    assert seeds.holm([0.01, 0.011]).tolist() == pytest.approx([0.02, 0.02])


def test_what_cannot_be_tested_counts_in_the_family_and_stays_unknown():
    adjusted = seeds.holm([math.nan, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == pytest.approx(0.02)


def rejected_step_by_step(p: list[float]) -> set[int]:
    """Holm's procedure as he tells it: the smallest against 5 %/k, the next against 5 %/(k - 1), until one fails."""
    found: set[int] = set()
    for step, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] > seeds.ALPHA / (len(p) - step):
            break
        found.add(i)
    return found


@given(st.lists(st.integers(0, 1000).map(lambda v: (v + 0.5) / 5000), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p):
    assert set(np.flatnonzero(seeds.holm(p) <= seeds.ALPHA)) == rejected_step_by_step(p)


# --- intervals and verdicts -------------------------------------------------------------------------------------------


@given(families())
def test_an_interval_excludes_zero_exactly_where_holm_rejects(family):
    adjusted, (_, low, high), _ = seeds.compare(list(family))
    assert ((low > 0) | (high < 0)).tolist() == (adjusted <= seeds.ALPHA).tolist()


@given(families(), st.integers(0, 500).map(lambda v: v / 100))
def test_verdict_and_interval_never_contradict_each_other(family, margin):
    _, (_, low, high), codes = seeds.compare(list(family), margin)
    for code, a, b in zip(codes, low, high, strict=True):
        word = seeds.VERDICTS[code]
        assert word != "better" or a > 0
        assert word != "worse" or b < 0
        assert word != "equivalent" or -margin < a <= b < margin
        assert word != "cannot tell" or math.isnan(a) or (a <= 0 <= b and not -margin < a <= b < margin)


@given(families(), st.integers(0, 500).map(lambda v: v / 100), st.sampled_from([0.25, 2.0, 1024.0]))
def test_verdicts_do_not_depend_on_the_unit_and_turn_with_the_sign(family, margin, unit):
    """Powers of two scale floating point numbers exactly, so that every comparison falls the same way."""
    codes = seeds.compare(list(family), margin)[2]
    assert (seeds.compare(list(family * unit), margin * unit)[2] == codes).all()
    turned = seeds.compare(list(-family), margin)[2]
    assert turned.tolist() == [{1: 2, 2: 1}.get(code, code) for code in codes.tolist()]


def test_where_holm_goes_further_than_bonferroni_the_interval_is_cut_at_zero():
    """The second p is between 5 %/2 and 5 %: Holm rejects it because the first is rejected, Bonferroni would not."""
    sure, second = np.array([10.0, 10.1, 9.9, 10.0]), np.array([1.0, 0.2, 0.8, 1.3])
    p = float(seeds.paired_p(second))
    assert seeds.ALPHA / 2 < p <= seeds.ALPHA
    adjusted, (_, low, high), codes = seeds.compare([sure, second])
    assert adjusted[1] == pytest.approx(p)
    assert 0 < low[1] < 1e-300
    assert seeds.t_interval(second, 0.975).low < 0
    assert high[1] == seeds.t_interval(second, 0.975).high
    assert seeds.VERDICTS[codes[1]] == "better"
    alone = seeds.compare([np.array([1.0, -1.0, 1.0, -1.0]), second])
    assert alone[1].low[1] < 0
    assert seeds.VERDICTS[alone[2][1]] == "cannot tell"


def test_a_real_difference_that_does_not_matter_is_equivalent_only_when_that_is_sure():
    d = np.array([0.010, 0.012, 0.009, 0.011, 0.010])
    assert seeds.VERDICTS[seeds.compare([d])[2][0]] == "better"
    assert seeds.VERDICTS[seeds.compare([d], 0.05)[2][0]] == "equivalent"
    edge = float(seeds.t_interval(d, 0.97).high)  # beyond the 95 % interval, within the 99 % one
    assert seeds.VERDICTS[seeds.compare([d], edge)[2][0]] == "better"


@pytest.mark.parametrize("d", [[0.0] * 5, [0.1] * 8, [0.3], []])
def test_differences_that_do_not_vary_tell_nothing(d):
    adjusted, (_, low, high), [code] = seeds.compare([np.array(d)], 1.0)
    assert np.isnan([adjusted[0], low[0], high[0]]).all()
    assert seeds.VERDICTS[code] == "cannot tell"


# --- probability of improvement ---------------------------------------------------------------------------------------


def test_all_seeds_ahead_have_clopper_and_pearson_s_closed_form():
    """With n of n the lower end solves x^n = 2.5 %."""
    for n in (4, 8, 20):
        assert seeds.improvement(np.ones(n)) == pytest.approx((1.0, 0.025 ** (1 / n), 1.0))


def test_a_tie_counts_half_and_widens_the_interval_to_either_side():
    share, low, high = seeds.improvement([1.0, 1.0, 0.0, -1.0])
    assert share == 0.625
    assert low == pytest.approx(stats.beta.ppf(0.025, 2, 3))  # two wins of four
    assert high == pytest.approx(stats.beta.ppf(0.975, 4, 1))  # three of four


# --- power ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_cohen_s_small_medium_and_large_effects_take_the_tabled_number_of_pairs(effect, n):
    """Matched pairs, two-sided 5 %, power 80 %: the usual tables."""
    assert seeds.seeds_needed(effect) == n
    assert seeds.power(effect, n) >= 0.8 > seeds.power(effect, n - 1)


def test_power_of_a_medium_effect_with_34_pairs_is_the_tabled_one():
    assert seeds.power(0.5, 34) == pytest.approx(0.8077775, abs=1e-6)


def test_more_seeds_see_less_and_more_comparisons_need_more():
    seen = [seeds.detectable(n, k) for k in (1, 4) for n in (4, 5, 8, 20, 200)]
    assert seen[:5] == sorted(seen[:5], reverse=True)
    assert all(one < four for one, four in zip(seen[:5], seen[5:], strict=True))
    assert seeds.detectable(3) == math.inf
    assert seeds.seeds_needed(1e-9) is None
    assert seeds.seeds_needed(100.0) == seeds.FEWEST


@pytest.mark.parametrize("comparisons", [1, 4])
@pytest.mark.parametrize("n", [4, 8, 20])
def test_what_is_promised_before_a_campaign_is_what_its_report_computes(n, comparisons):
    """`explain` integrates by hand and without scipy; both count the other sign's tail or not, which is below 1e-6."""
    assert seeds.detectable(n, comparisons) == pytest.approx(power.detectable_difference(n, comparisons), rel=1e-4)


def test_the_spread_has_the_interval_of_the_chi_squared_table():
    """n = 10: the table has 19.023 and 2.700 at 9 degrees of freedom."""
    sd, low, high = seeds.spread(SLEEP)
    assert sd == pytest.approx(1.2299, abs=1e-4)
    assert (low, high) == pytest.approx((sd * math.sqrt(9 / 19.023), sd * math.sqrt(9 / 2.700)), rel=1e-3)
