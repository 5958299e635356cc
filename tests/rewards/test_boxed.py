r"""The last \boxed{} of a text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.rewards.boxed import last_boxed

plain = st.text(alphabet=st.characters(exclude_characters="\\{}"), max_size=8)
escaped = st.sampled_from([r"\{", r"\}", "\\\\", r"\frac", r"\,"])
balanced = st.recursive(
    plain | escaped,
    lambda inner: st.builds("{{{}}}".format, inner) | st.lists(inner, max_size=3).map("".join),
    max_leaves=8,
)
opening = st.sampled_from(["\\boxed{", "\\boxed {", "\\boxed\n{", "\\fbox{", "\\\\boxed{"])


@given(plain, opening, balanced, plain)
def test_what_is_put_into_a_box_comes_out_whole(before, box, content, after):
    r"""`balanced` holds braces in pairs and escapes only whole, so the box closes at its own brace."""
    assert last_boxed(f"{before}{box}{content} }}{after}") == content + " "


@given(st.lists(balanced, min_size=1, max_size=4), plain)
def test_the_last_box_wins(contents, between):
    text = between.join(f"\\boxed{{{content} }}" for content in contents)
    assert last_boxed(text) == contents[-1] + " "


@given(balanced, plain)
def test_a_box_that_is_never_closed_hides_no_box_before_it(content, after):
    assert last_boxed(f"\\boxed{{{content} }} then \\boxed{{{after}") == content + " "


@given(st.text(alphabet="\\boxed{}f1 "))
def test_no_text_makes_it_fail(text):
    found = last_boxed(text)
    assert found is None or found in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"\boxed{}", ""),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{x\\}", r"x\\"),
        (r"\boxed{1 \boxed{2} 3}", r"1 \boxed{2} 3"),
        (r"\boxed{1 and \boxed{2}", "2"),
        (r"} } \boxed{3} } {", "3"),
        (r"\boxed 5", None),
        (r"\boxed{42", None),
        (r"boxed{42}", None),
        (r"\unboxed{42}", None),
        (r"\{\boxed{7}\}", "7"),
        ("", None),
    ],
)
def test_examples(text, answer):
    assert last_boxed(text) == answer


def test_a_collapsed_completion_of_open_boxes_costs_one_pass():
    """A scan per box would take (10^5)^2 steps."""
    began = time.process_time()
    assert last_boxed("\\boxed{" * 100_000) is None
    assert time.process_time() - began < 5
