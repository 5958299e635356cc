"""The bytes that tokens wrote are those of the text that decoding shows, each with the token that wrote it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.advantages.offsets import BROKEN, TokenBytes, raw_text, shown_text
from tests.tokenizers import STYLES, encode, tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

BYTE_LEVEL = ("bytes", "gpt2", "llama3", "qwen")
BYTE_FALLBACK = ("llama2", "gemma")
TEXT = "Wait, let me check: naïve 🙂 that’s €5, 福田.\nDouble-check  👩‍👩‍👧"


def text_of(pieces: Sequence[bytes]) -> str:
    return shown_text(raw_text(b"".join(pieces)))


def merged(text: str) -> str:
    """One U+FFFD for several in a row: tokenizers differ in how many stand for broken bytes."""
    return re.sub(f"{BROKEN}+", BROKEN, text)


class OnlyDecodes:
    """A tokenizer that nothing but its decoding is known of."""

    eos_ids: frozenset[int] = frozenset()
    pad_id = 0

    def __init__(self, style: str) -> None:
        self.decode = tokenizer(style).decode

    def encode_prompt(self, messages: object) -> list[int]:
        raise AssertionError


@pytest.mark.parametrize("style", BYTE_LEVEL + BYTE_FALLBACK)
def test_the_bytes_of_tokens_are_those_of_the_text(style: str):
    ids, offsets = encode(style, TEXT)
    pieces = TokenBytes(tokenizer(style))(ids)
    assert text_of(pieces) == tokenizer(style).decode(ids)
    assert b"".join(pieces).strip() == TEXT.encode()
    for piece, (start, end) in zip(pieces, offsets, strict=True):
        assert piece.strip() in TEXT[start:end].encode()


@pytest.mark.parametrize("style", BYTE_LEVEL + BYTE_FALLBACK)
def test_a_character_split_over_tokens_gives_each_its_own_bytes(style: str):
    ids, _ = encode(style, "a龍b")
    pieces = TokenBytes(tokenizer(style))(ids)
    assert [piece for piece in pieces if not piece.isascii()] == [b"\xe9", b"\xbe", b"\x8d"]


@pytest.mark.parametrize("style", BYTE_LEVEL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sampled_tokens_of_a_byte_level_tokenizer_add_up_to_what_decoding_shows(style: str, data: st.DataObject):
    """Models sample broken characters, special tokens, and ids beyond the vocabulary that stand for nothing."""
    size = len(tokenizer(style).hf)
    ids = data.draw(st.lists(st.integers(0, size + 3), max_size=30))
    pieces = TokenBytes(tokenizer(style))(ids)
    assert len(pieces) == len(ids)
    assert merged(text_of(pieces)) == merged(tokenizer(style).decode(ids))


@pytest.mark.parametrize("style", ["llama2", "gemma", "clip"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_whole_characters_of_other_tokenizers_add_up_to_what_decoding_shows(style: str, data: st.DataObject):
    """In any order, with special tokens among them; a word whose end was never sampled is a word all the same."""
    spelled = tokenizer(style).hf.convert_ids_to_tokens
    whole = [i for i in range(len(tokenizer(style).hf)) if not spelled(i).startswith("<0x")]
    ids = data.draw(st.lists(st.sampled_from(whole), max_size=30))
    assert text_of(TokenBytes(tokenizer(style))(ids)) == tokenizer(style).decode(ids)


@pytest.mark.parametrize("style", BYTE_FALLBACK)
def test_a_completion_cut_inside_a_character_keeps_the_characters_before(style: str):
    """Decoding shows Ω and part of a 龍 as broken bytes altogether; the tokens did write Ω."""
    ids, _ = encode(style, "aΩ龍")
    pieces = TokenBytes(tokenizer(style))(ids[:-1])
    assert tokenizer(style).decode(ids[:-1]).endswith(BROKEN * 4)
    assert text_of(pieces).startswith("aΩ" + BROKEN)


@pytest.mark.parametrize("style", STYLES)
def test_decoding_beside_the_neighbours_finds_the_text_of_any_tokenizer(style: str):
    """The way round for tokenizers whose spelling tells nothing: here of all styles."""
    text = "wait, let me check it again" if style == "clip" else TEXT
    ids, offsets = encode(style, text)
    pieces = TokenBytes(OnlyDecodes(style))(ids)
    assert merged(text_of(pieces)) == tokenizer(style).decode(ids)
    if style in BYTE_LEVEL:
        for piece, (start, end) in zip(pieces, offsets, strict=True):
            assert piece.strip() in text[start:end].encode()


def test_special_tokens_write_nothing():
    ids, _ = encode("qwen", " let me")
    assert TokenBytes(tokenizer("qwen"))([0, ids[0], 1, *ids[1:], 1, 1]) == [b"", b" let", b"", b" me", b"", b""]


@pytest.mark.parametrize("style", BYTE_LEVEL + BYTE_FALLBACK)
def test_a_token_is_learnt_once_and_a_completion_decoded_once(style: str):
    plain, decoded = tokenizer(style), []

    class Counting(OnlyDecodes):
        hf = plain.hf

        def __init__(self) -> None:
            super().__init__(style)
            self.decode = lambda token_ids: decoded.append(len(token_ids)) or plain.decode(token_ids)

    ids, _ = encode(style, "let me check the key insight 龍🙂 " * 20)
    bytes_of = TokenBytes(Counting())
    bytes_of(ids)
    assert len(decoded) == 2 * len(set(ids)) + 1
    bytes_of(ids)
    assert len(decoded) == 2 * len(set(ids)) + 2
    assert decoded[-1] == len(ids)
