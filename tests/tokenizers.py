"""Small tokenizers of every style that language models come with, trained on the spot.

bytes     every byte is a token (builtin:tiny)
gpt2      byte-level BPE, words begin with their space
llama3    the same, with a space put before the text and a token that begins it
qwen      byte-level BPE, split by Qwen's pattern: digits alone, punctuation with its line breaks
llama2    sentencepiece-style BPE: ▁ for a space, bytes for unknown characters
gemma     sentencepiece-style unigram, bytes for unknown characters
clip      BPE whose words end in </w>: a token's text depends on the token after it
"""

from __future__ import annotations

import json
from functools import cache
from string import ascii_letters
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from retrain.advantages.grams import GRAMS
from retrain.model import ChatTokenizer, load_tokenizer
from tests.models import config_of

if TYPE_CHECKING:
    from collections.abc import Callable

STYLES = ("bytes", "gpt2", "llama3", "qwen", "llama2", "gemma", "clip")
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def corpus() -> list[str]:
    """Return sentences in which planning phrases are frequent enough to become tokens of several letters."""
    letters = " ".join([*ascii_letters, *(f"{char}{char}" for char in ascii_letters)])
    rest = ["so x = 12, and 3 apples are left.", "福田 writes naïve € signs 🙂 – often", "Then we add the numbers"]
    return [letters, *(f"{gram.capitalize()}, {text} {gram} {text.upper()}" for gram in GRAMS for text in rest)]


def _trained(core: Tokenizer, trainer: Any) -> Tokenizer:
    core.train_from_iterator(corpus(), trainer)
    return core


def _bpe(**options: Any) -> Any:
    special = [AddedToken(token, special=True) for token in SPECIAL]
    return trainers.BpeTrainer(special_tokens=special, show_progress=False, **options)


def _byte_level(*, split: str = "", prefix: bool = False) -> Tokenizer:
    core = Tokenizer(models.BPE())
    by_pattern = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not split)
    core.pre_tokenizer = pre_tokenizers.Sequence([*by_pattern, level])
    core.decoder = decoders.ByteLevel()
    return _trained(core, _bpe(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def _llama2() -> Tokenizer:
    """Train on the forty most frequent characters, then let bytes stand for all others."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    learnt = json.loads(_trained(core, _bpe(vocab_size=300, limit_alphabet=40)).model.__getstate__())
    vocab, merges = core.get_vocab(), [tuple(pair) for pair in learnt["merges"]]
    vocab |= {byte: len(vocab) + n for n, byte in enumerate(BYTES)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(content=" ", left=1, right=0)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return core


def _gemma() -> Tokenizer:
    words = sorted({f"▁{word}" for line in corpus() for word in line.split() if word.isascii()})
    letters = ["▁", *map(chr, range(0x21, 0x7F))]
    pieces = [(token, 0.0) for token in [*SPECIAL, *BYTES]]
    pieces += [(letter, -9.0) for letter in letters]
    pieces += [(word[:length], -6.0 - 0.1 * length) for word in words for length in (3, 5, len(word))]
    core = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=2, byte_fallback=True))
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return core


def _clip() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    return _trained(core, _bpe(vocab_size=400, end_of_word_suffix="</w>"))


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _byte_level,
    "llama3": lambda: _byte_level(prefix=True),
    "qwen": lambda: _byte_level(split=QWEN),
    "llama2": _llama2,
    "gemma": _gemma,
    "clip": _clip,
}


@cache
def tokenizer(style: str) -> ChatTokenizer:
    """Return the tokenizer of a style, as a run has it."""
    if style == "bytes":
        return load_tokenizer(config_of("builtin:tiny"))
    hf = PreTrainedTokenizerFast(tokenizer_object=MAKERS[style](), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return ChatTokenizer(hf, eos_ids=[1], template_args={}, label=style)


def encode(style: str, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a text and, as the tokenizer itself tells, the characters that each of them stands for."""
    encoding = tokenizer(style).hf.backend_tokenizer.encode(text, add_special_tokens=False)
    return list(encoding.ids), [tuple(pair) for pair in encoding.offsets]
