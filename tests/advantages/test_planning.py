"""Planning phrases are found in whatever way they are written, and their tokens are marked: those and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.advantages.grams import GRAMS
from retrain.advantages.planning import PlanningTokens, RegexDetector, build
from retrain.config.schema import Planning
from retrain.errors import ConfigError, RunError
from tests.tokenizers import encode, tokenizer

if TYPE_CHECKING:
    from retrain.types import Detector

STYLES = ("bytes", "gpt2", "llama3", "qwen", "llama2", "gemma", "clip")


def found(text: str, *grams: str) -> list[str]:
    """Return what the regex detector finds in a text."""
    (ranges,) = RegexDetector(grams)([text])
    return [text[start:end] for start, end in ranges]


def marked(style: str, text: str, *grams: str) -> list[str]:
    """Return what the marked tokens of a text stand for, as the tokenizer itself tells."""
    ids, offsets = encode(style, text)
    (row,) = PlanningTokens(RegexDetector(grams), tokenizer(style))([ids], width=len(ids), step=0)
    return [text[start:end] for (start, end), mark in zip(offsets, row.tolist(), strict=True) if mark]


# --- the text -----------------------------------------------------------------------------------------------------


def test_there_are_eighteen_built_in_phrases_and_each_is_found():
    assert len(set(GRAMS)) == 18
    for gram in GRAMS:
        assert found(f"So x = 2. {gram.capitalize()} 3?") == [gram.capitalize()]


@pytest.mark.parametrize(
    "text",
    [
        "Wait, let me",
        "WAIT LET ME",
        "wait... Let me",
        "wait\n\n  let\tme",
        "Wait**, let me",
        "Wait — let me",
        "wait-let-me",
        "Wait_ (let me",
        "Wait!” Let me",
        "wait\u00a0let me",
    ],
)
def test_case_whitespace_and_punctuation_between_words_do_not_matter(text: str):
    assert found(f"7. _“**{text} see", "wait let me") == [text]


@pytest.mark.parametrize("apostrophe", "'’‘ʼ＇")
def test_any_apostrophe_is_one(apostrophe: str):
    text = f"that{apostrophe}s not right"
    assert found(f"No, {text}.") == [text]
    assert found(f"No, {text}.", "that’s not right") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "is this rightly so",
        "starting over",
        "restart over",
        "the keys is",
        "the key isn't",
        "or we couldn't",
        "letme check",
    ],
)
def test_a_phrase_begins_and_ends_with_its_words(text: str):
    assert found(text) == []


def test_phrases_that_share_words_are_all_found():
    assert found("Wait, let me check: is this right?") == ["Wait, let me", "let me check", "is this right"]


def test_the_longer_of_two_phrases_that_begin_alike_is_found():
    assert found("let me check it", "let me", "let me check") == ["let me check"]


def test_phrases_of_ones_own_replace_the_list_and_are_literal():
    assert found("let me check (a+b)* now", "(a+b)*") == ["(a+b)*"]
    assert found("aab", "(a+b)*", "a.b", "[ab]") == []
    assert found("A re-check, or re check.", "re-check") == ["re-check", "re check"]


def test_scripts_without_spaces_have_no_word_boundaries():
    assert found("我们让我想想这个", "让我想想") == ["让我想想"]
    assert found("Überlegen wir. Doch überlegend", "überlegen") == ["Überlegen"]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_phrase_is_refused(blank: str):
    with pytest.raises(ConfigError, match=r"planning.strategic_grams\[2\] is blank"):
        RegexDetector(["let me", blank])


# --- the tokens ---------------------------------------------------------------------------------------------------


def test_words_that_are_split_over_tokens_are_marked_whole():
    text = "No. Double-check, that’s not right 🙂"
    for style in ("bytes", "gpt2", "qwen", "llama2", "gemma"):
        ids, offsets = encode(style, text)
        (row,) = PlanningTokens(RegexDetector(), tokenizer(style))([ids], width=len(ids), step=0)
        spans = [span for span, mark in zip(offsets, row.tolist(), strict=True) if mark]
        covered = {place for start, end in spans for place in range(start, end) if text[place] != " "}
        assert "".join(text[place] for place in sorted(covered)) == "Double-checkthat’snotright"


def test_neighbours_of_a_phrase_are_not_marked():
    assert marked("qwen", "and so let me check, then") == [" let", " me", " check"]
    assert marked("bytes", "a let me check b") == list("let me check")


def test_a_space_at_the_end_of_the_token_before_does_not_count():
    """Here words end in their space, so "so " touches the phrase and "check " reaches beyond it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from retrain.model import ChatTokenizer

    core = Tokenizer(models.WordLevel({"so ": 0, "let ": 1, "me ": 2, "check ": 3, "?": 4}, unk_token="?"))
    from tokenizers import decoders

    core.decoder = decoders.Fuse()
    words = ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=core), eos_ids=[], template_args={}, label="")
    mask = PlanningTokens(RegexDetector(), words)([[0, 1, 2, 3, 0, 4]], width=6, step=0)
    assert mask.tolist() == [[False, True, True, True, False, False]]


def test_padding_special_tokens_and_empty_completions_are_not_marked():
    ids, _ = encode("qwen", " let me check")
    split = [ids[0], 1, *ids[1:], 1]  # a special token inside the phrase, and one after it
    mask = PlanningTokens(RegexDetector(), tokenizer("qwen"))([split, [], [1]], width=8, step=0)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, False, True, True, False, False, False, False], [False] * 8, [False] * 8]


def test_a_token_that_holds_part_of_a_character_of_a_phrase_is_marked():
    assert marked("gpt2", "x 龍 y", "龍") == ["龍"] * 3
    assert marked("llama2", "x 龍 y", "龍") == ["龍"] * 3


BEFORE = st.text(alphabet=" \nax.,福é🙂€’-1", max_size=12).map(lambda text: f"q{text} ")
AFTER = st.text(alphabet=" \nax.,福é🙂€’-1", max_size=12).map(lambda text: f". {text}q" if text else "")
CASES = st.sampled_from([str.lower, str.upper, str.title, str.capitalize])
HYPHENATED = st.sampled_from(["double-check", "Wait, let me", "that’s not right", "what  if\nwe"])
PHRASES = st.one_of(st.builds(lambda case, gram: case(gram), CASES, st.sampled_from(GRAMS)), HYPHENATED)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(before=BEFORE, phrase=PHRASES, after=AFTER)
def test_marked_tokens_are_those_that_the_tokenizer_places_in_the_phrase(
    style: str, before: str, phrase: str, after: str
):
    """The tokenizer's own offsets, from encoding the text, say which tokens overlap the phrase's characters.

    They are independent of the code under test, which sees ids alone. clip puts spaces around punctuation and knows no
    other script, so that its text holds letters only.
    """
    if style == "clip":
        before, after, phrase = (
            "".join(c if c.isascii() and c.isalpha() else " " for c in part) for part in (before, after, phrase)
        )
        phrase = phrase if "'" not in phrase else "let me check"
    text = before + phrase + after
    ids, offsets = encode(style, text)
    expected = [start < len(before) + len(phrase) and end > len(before) for start, end in offsets]
    detector = RegexDetector([phrase])
    (row,) = PlanningTokens(detector, tokenizer(style))([ids], width=len(ids), step=0)
    assert row.tolist() == expected
    assert any(expected)


# --- detectors of one's own ---------------------------------------------------------------------------------------


def run(detector: Detector) -> torch.Tensor:
    return PlanningTokens(detector, tokenizer("bytes"), name="mine:find")([[0, 1], [2]], width=2, step=7)


def test_a_function_is_a_detector():
    assert run(lambda texts: [[(1, 2)], []]).tolist() == [[False, True], [False, False]]
    assert run(lambda texts: [[(0, 2), (1, 1), (0, 1)], [(0, 1)]]).tolist() == [[True, True], [True, False]]
    assert not run(lambda texts: [[(1, 1)], [(0, 0)]]).any()


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([[]], "returned 1 lists of ranges for 2 texts at step 7"),
        ([[(0, 3)], []], r"returned the range \(0, 3\) at step 7, in a text of 2 characters"),
        ([[(-1, 1)], []], r"the range \(-1, 1\)"),
        ([[(2, 1)], []], r"the range \(2, 1\)"),
        ([[(0.0, 1.0)], []], "a list of pairs"),
        ([[0, 1], []], "a list of pairs"),
        ([None, []], "a list of pairs"),
        (None, "failed at step 7: TypeError"),
    ],
)
def test_what_a_detector_gets_wrong_is_said_with_its_name_and_the_step(returned: object, says: str):
    with pytest.raises(RunError, match=f"planning detector mine:find .*{says}"):
        run(lambda texts: returned)  # type: ignore[arg-type, return-value]  that is the point


def test_an_exception_of_a_detector_names_it():
    def fails(texts: object) -> list[list[tuple[int, int]]]:
        raise KeyError("model")

    with pytest.raises(RunError, match="planning detector mine:find failed at step 7: KeyError: 'model'"):
        run(fails)


def test_the_config_chooses_the_detector_and_its_phrases():
    ids, _ = encode("bytes", "let me check")
    own = build(Planning(strategic_grams=["me"]), tokenizer("bytes"), [])
    built_in = build(Planning(), tokenizer("bytes"), [])
    assert own([ids], width=12, step=0).sum() == 2
    assert built_in([ids], width=12, step=0).all()
