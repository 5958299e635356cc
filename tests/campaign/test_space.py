"""What a search may change: Hydra's sweep syntax as dimensions, read alike each time, with no value outside of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.campaign.space import read
from retrain.campaign.sweep import expand


@pytest.mark.parametrize(
    ("name", "text", "low", "high", "size", "is_whole"),
    [
        ("training.lr", "interval(1e-5, 1e-3)", 1e-5, 1e-3, math.inf, False),
        ("training.lr", "tag(log, interval(1e-5, 1e-3))", 1e-5, 1e-3, math.inf, False),
        ("training.batch_size", "int(interval(1, 8))", 1, 8, 8, True),
        ("training.batch_size", "tag(log, int(interval(1, 64)))", 1, 64, 64, True),
        ("training.batch_size", "range(1, 9, 2)", 1, 7, 4, True),
        ("training.batch_size", "range(5, 0, -2)", 1, 5, 3, True),
        ("training.temperature", "range(0.6, 1.1, 0.1)", 0.6, 1.0, 5, False),
    ],
)
def test_a_number_is_searched_between_two_ends(name, text, low, high, size, is_whole):
    found = read(name, text)
    assert (found.low, found.high, found.size, found.is_whole) == (low, high, size, is_whole)
    assert found.is_log == ("log" in text)


@pytest.mark.parametrize("text", ["range(1,9,2)", "range(3,0,-1)", "range(0.0,1.0,0.25)", "1e-5,4e-5", "choice(a,b)"])
def test_what_has_an_end_has_the_values_of_a_sweep_without_a_search(text):
    found = [f"a.b={value}" for value in read("a.b", text).all_values()]
    assert sorted(found) == sorted(word for [word] in expand([f"a.b={text}"]))


@pytest.mark.parametrize("text", ["a, b", "choice(a,b)", "sort(b,a)", "shuffle(choice(a,b))", "shuffle(a,b)"])
def test_names_are_searched_as_they_are_and_are_read_alike_each_time(text):
    found = read("data.system_prompt", text)
    assert sorted(found.choices) == ["a", "b"]
    assert read("data.system_prompt", text) == found
    assert read("data.system_prompt", found.text) == found  # as it is written into a manifest


def test_a_glob_names_the_group_files_that_it_matched():
    found = read("algorithm", "glob(maxrl_gtpo*)")
    assert found.text == "choice(maxrl_gtpo,maxrl_gtpo_hicra,maxrl_gtpo_sepa)"


@pytest.mark.parametrize("text", ["1e-5", "[1,2]", "what range(1) is", "'a,b'", "${training.lr}", "interval"])
def test_one_value_is_nothing_to_search(text):
    assert read("data.system_prompt", text) is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("training.lr", "interval(2,1)", "interval(1,2)"),
        ("training.lr", "interval(1,1)", "one value"),
        ("training.lr", "choice(1)", "one value"),
        ("training.lr", "tag(log,interval(0,1))", "above 0"),
        ("training.lr", "tag(log,range(1,5))", "steps of one size"),
        ("training.lr", "tag(fast,interval(1,2))", "fast has no effect"),
        ("training.lr", "choice(1e-5,0.00001)", "the same value"),
        ("training.lr", "shuffle(interval(1,2))", "Hydra cannot read"),
        ("training.seed", "1,2", "repeated, not searched"),
        ("logging.run_name", "a,b", "no step of a run depends on it"),
        ("eval.temperature", "interval(0,1)", "how a trial is scored"),
        ("algorithm", "interval(1,2)", "by its name"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_reason(name, text, said):
    with pytest.raises(ValueError, match=r".") as refused:
        read(name, text)
    assert said in str(refused.value)


ENDS = st.floats(1e-6, 1e6)


@given(ENDS, ENDS, st.floats(0, 1), st.booleans())
def test_a_rounded_number_stays_inside_and_near(one, other, share, is_log):
    """Four digits of the interval's width: the step is a ten-thousandth of the decade above it, so at most a thousandth
    of the width; by order of magnitude it is also at most a thousandth of the number itself."""
    low, high = sorted((one, other))
    if high - low < 1e-6 * high:
        return
    found = read("a.b", f"{'tag(log,' if is_log else ''}interval({low!r},{high!r}){')' if is_log else ''}")
    value = min(high, low * (high / low) ** share if is_log else low + share * (high - low))
    rounded = found.rounded(value)
    assert low <= rounded <= high
    assert abs(rounded - value) <= 1e-3 * (min(high - low, value) if is_log else high - low) * (1 + 1e-9)
