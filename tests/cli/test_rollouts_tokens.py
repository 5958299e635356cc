"""Which characters are whose: decoded text cut at its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from retrain import tiny
from retrain.cli.rollouts_tokens import Scale, split, uncertainty_scale, visible

BYTES = Tokenizer.from_file(str(tiny.path() / "tokenizer.json"))  # a token is a byte, or a special word
PLAIN = {chr(code): code for code in BYTES.encode("".join(map(chr, range(32, 127)))).ids}


def fallback():
    """A tokenizer as Llama's: words with ▁ for the space before them, single bytes for what no word covers."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁let": 256, "▁me": 257, "你": 258, "▁": 259}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token=None))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


TOKENIZERS = {"byte-level": BYTES, "byte fallback": fallback()}


def decoder(name):
    return lambda ids: TOKENIZERS[name].decode(list(ids), skip_special_tokens=False)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_character_belongs_to_the_token_of_its_first_byte(text):
    """With one token a byte, character k has the tokens of its UTF-8 bytes; the place is their count before it."""
    ids = [token for char in text for token in BYTES.encode(char).ids]
    expected, place = [], 0
    for char in text:
        expected.append((char, place, len(char.encode())))
        place += len(char.encode())
    assert [(p.text, p.first, p.count) for p in split(decoder("byte-level"), ids)] == expected


@pytest.mark.parametrize(("name", "size"), [("byte-level", 262), ("byte fallback", 260)])
@given(data=st.data())
def test_pieces_join_to_the_text_and_cover_every_token_once(name, size, data):
    """Any ids, so also halves of characters: what a model may sample."""
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=120))
    pieces = split(decoder(name), ids)
    assert "".join(piece.text for piece in pieces) == decoder(name)(ids)
    assert [i for p in pieces for i in range(p.first, p.first + p.count)] == list(range(len(ids)))


def test_leading_spaces_and_split_characters_of_byte_fallback_stay_with_their_tokens():
    emoji = [*"🙂".encode()]
    pieces = split(decoder("byte fallback"), [256, 257, *emoji, 258] * 20)
    assert [(p.text, p.first, p.count) for p in pieces[:4]] == [
        ("let", 0, 1),
        (" me", 1, 1),
        ("🙂", 2, 4),
        ("你", 6, 1),
    ]
    assert [p.text for p in pieces[4:]] == [" let", " me", "🙂", "你"] * 19


def test_a_run_of_bytes_longer_than_any_window_is_still_cut_right():
    """A byte that breaks the run makes every byte of it unreadable at once, also those of long before."""
    ids = [*("é" * 60).encode(), 0xFF, 256]
    text = decoder("byte fallback")(ids)
    assert "".join(piece.text for piece in split(decoder("byte fallback"), ids)) == text


@pytest.mark.parametrize(("name", "token"), [("byte-level", 16), ("byte fallback", 256)])
def test_the_cost_of_a_completion_is_linear(name, token):
    """The second tokenizer drops the space before a first token: a window without context would start over."""
    decoded = []

    def decode(ids):
        decoded.append(len(ids))
        return decoder(name)(ids)

    split(decode, [token] * 4000)
    assert sum(decoded[1:]) < 4000 * 50


def test_control_characters_become_signs_and_writing_stays_as_it_is():
    assert visible("a\x1b[2J\r\x07\x7f\x9b\u202e\u2028") == "a␛[2J␍␇\\u{7f}\\u{9b}\\u{202e}\\u{2028}"
    kept = "äé 日本語\t\n👩‍👩‍👧 \u3000नी"
    assert visible(kept) == kept


def test_the_scale_is_cut_at_its_end_and_silent_near_zero():
    scale = Scale(column="advantages", top=2.0)
    assert [scale.share(x) for x in (1.0, -1.0, 5.0, -5.0, 0.02, None)] == [0.5, -0.5, 1.0, -1.0, 0.0, 0.0]
    assert Scale(column="advantages", top=0.0).share(0.0) == 0.0


def test_one_surprise_does_not_dim_all_the_rest():
    scale = uncertainty_scale([{"uncertainty": [1.0] * 99 + [50.0]}, {"uncertainty": None}])
    assert scale is not None
    assert scale.top == 1.0
    assert uncertainty_scale([{"uncertainty": None}]) is None
