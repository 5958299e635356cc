"""Marks of generated blocks: found outside of code, in pairs, and filled without touching anything else."""

import pytest

from retrain.errors import ConfigError
from retrain.manual import marks

TOPIC = """\
# t: about

before
<!-- generated: names transform -->
old
<!-- end generated -->
between

```
<!-- generated: keys -->
```

<!-- generated: keys -->
<!-- end generated -->
after
"""


def test_blocks_have_their_name_arguments_place_and_text():
    first, second = marks.blocks(TOPIC)
    assert (first.name, first.arguments, first.first, first.last, first.text) == ("names", ("transform",), 4, 6, "old")
    assert (second.name, second.arguments, second.first, second.text) == ("keys", (), 13, "")
    assert first.title == "names transform"


def test_filling_changes_what_is_stale_and_nothing_else():
    text, stale = marks.filled(TOPIC, lambda block: f"new {block.name}\n\nmore")
    assert [block.first for block in stale] == [4, 13]
    assert text == (
        TOPIC.replace("-->\nold\n<", "-->\n\nnew names\n\nmore\n\n<").replace(
            "<!-- generated: keys -->\n<", "<!-- generated: keys -->\n\nnew keys\n\nmore\n\n<"
        )
    )


def test_what_was_filled_is_not_stale():
    text, _ = marks.filled(TOPIC, lambda block: f"new {block.name}")
    assert marks.filled(text, lambda block: f"new {block.name}") == (text, [])


def test_a_block_may_hold_code_and_headings():
    text, _ = marks.filled(TOPIC, lambda _: "## Head\n\n```\ncode\n```")
    assert [block.text for block in marks.blocks(text)] == ["## Head\n\n```\ncode\n```"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- generated: keys -->\n", "t.md:1: the generated block keys has no end"),
        ("a\n<!-- end generated -->\n", "t.md:2: this ends no generated block"),
        (
            "<!-- generated: keys -->\n<!-- generated: health -->\n<!-- end generated -->\n",
            "t.md:1: the generated block keys has no end",
        ),
    ],
)
def test_marks_without_a_partner_are_named_with_their_line(text, said):
    with pytest.raises(ConfigError, match=said):
        marks.blocks(text, "t.md")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        marks.blocks("<!-- end generated -->\n<!-- generated: keys -->\n", "t.md")
    assert [problem.line for problem in caught.value.problems] == [1, 2]


def test_a_block_that_cannot_be_made_is_named_with_its_line():
    def refuse(block):
        raise ConfigError(f"no {block.name}")

    with pytest.raises(ConfigError) as caught:
        marks.filled(TOPIC, refuse, "t.md")
    assert [str(problem) for problem in caught.value.problems] == ["t.md:4: no names", "t.md:13: no keys"]


def test_for_the_eyes_only_the_marks_are_gone():
    seen = marks.without_marks(TOPIC)
    assert "old" in seen
    assert "before\nold\nbetween" in seen
    assert seen.count("<!--") == 1  # in code: an example


def test_a_mark_inside_a_sentence_is_no_mark():
    assert marks.blocks("write `<!-- generated: keys -->` alone on a line\n") == []
