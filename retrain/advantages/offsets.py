"""Which bytes of a completion's text each sampled token wrote; nothing is encoded again.

    "▁wait" "," "▁let" "<0xF0>" "<0x9F>" "<0x98>" "<0x80>"   sampled tokens
    "wait"  "," " let"  f0       9f       98       80         their bytes: together, the text that decoding shows

Bytes rather than characters, because a token may hold a part of a character only. What a token writes is learnt once
per token id and looked up from then on, so a completion costs one look-up a token and one decoding.
"""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.types import Tokenizer

BROKEN = "\ufffd"  # what a tokenizer shows for bytes that are not a character
CONTEXT = 4  # tokens, or characters of several, that are decoded before the one looked at
LONGEST = 8  # tokens that one character may be spread over, with what it takes along at its ends

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED = re.compile(r"[\udc80-\udcff]")


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE spells a byte as one visible character: itself where it is one, else the next one from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()


def raw_text(written: bytes) -> str:
    """Decode, with one lone surrogate for each byte that is in no character: encoding gives the same bytes again."""
    return written.decode("utf-8", "surrogateescape")


def shown_text(raw: str) -> str:
    """Show those bytes as U+FFFD; the length in characters stays."""
    return _ESCAPED.sub(BROKEN, raw)


class TokenBytes:
    """Call it with sampled ids to get the bytes that each of them wrote; special tokens wrote none.

    Holds for byte-level BPE, for sentencepiece-style tokenizers (leading spaces, bytes for unknown characters) and for
    every other one whose tokens write the same wherever they stand. The sum is compared with what the tokenizer
    decodes; where it differs, as with spaces that depend on the neighbours, the completion is decoded token by token
    beside the tokens before it, and a character that several tokens make up is shared out among them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._spelling = getattr(getattr(tokenizer, "hf", None), "convert_ids_to_tokens", None)
        self._known: dict[int, bytes] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[bytes]:
        for token in set(token_ids) - self._known.keys():
            self._known[token] = self._written_by(token)
        pieces = [self._known[token] for token in token_ids]
        text, decoded = shown_text(raw_text(b"".join(pieces))), self._decode(token_ids)
        if _same(text, decoded):
            return pieces
        if text.startswith(" ") and _same(text[1:], decoded):
            first = next(place for place, piece in enumerate(pieces) if piece)
            return [*pieces[:first], pieces[first][1:], *pieces[first + 1 :]]
        return self._beside_neighbours(token_ids)

    def _written_by(self, token: int) -> bytes:
        """What a token adds after itself: some tokenizers drop a space at the start of a text."""
        shown = self._decode([token, token])[len(self._decode([token])) :]
        spelled = self._spelled(token) if BROKEN in shown else None
        return shown.encode() if spelled is None else spelled

    def _spelled(self, token: int) -> bytes | None:
        """The bytes of a token that is not whole characters; None where its spelling does not tell."""
        spelling = self._spelling(token) if self._spelling else None
        if spelling is None:
            return None
        if byte := _BYTE_TOKEN.fullmatch(spelling):
            return bytes.fromhex(byte[1])
        return bytes(_BYTE_OF[char] for char in spelling) if all(char in _BYTE_OF for char in spelling) else None

    def _beside_neighbours(self, token_ids: Sequence[int]) -> list[bytes]:
        pieces: list[bytes] = []
        starts: list[int] = []  # of whole characters: what is decoded must not begin inside one
        while len(pieces) < len(token_ids):
            start, count, after = len(pieces), 0, ""
            context = [*token_ids[starts[-CONTEXT] if len(starts) >= CONTEXT else 0 : start]]
            before = self._decode(context)
            while count < min(LONGEST, len(token_ids) - start):
                count += 1
                after = self._decode([*context, *token_ids[start : start + count]])
                if not after.endswith(BROKEN):
                    break
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
            added = after[shared:].encode()
            cuts = [len(added) * n // count for n in range(count + 1)]
            pieces += [added[cuts[n] : cuts[n + 1]] for n in range(count)]
            starts.append(start)
        return pieces


def _same(text: str, decoded: str) -> bool:
    """Tell whether two texts are equal; tokenizers differ in how often they write U+FFFD for broken bytes."""
    if text == decoded:
        return True
    return BROKEN in text and re.sub(f"{BROKEN}+", BROKEN, text) == re.sub(f"{BROKEN}+", BROKEN, decoded)
