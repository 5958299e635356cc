"""A stop text is found at the token that completes it, and nowhere else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from retrain.engines.stop_texts import StopTexts
from retrain.model import ChatTokenizer, load_tokenizer
from tests.models import config_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def tokenizer_of(folder: Path) -> ChatTokenizer:
    return load_tokenizer(config_of(folder))


def first_hit(stops: StopTexts, ids: Sequence[int]) -> int | None:
    """Return how many tokens are read before a stop text is complete."""
    return next((n for n in range(1, len(ids) + 1) if stops.completed_by(ids[:n])), None)


def slow_hit(texts: Sequence[str], tokenizer: ChatTokenizer, ids: Sequence[int]) -> int | None:
    """The definition: decode everything so far, look for the text."""
    return next((n for n in range(1, len(ids) + 1) if any(t in tokenizer.decode(ids[:n]) for t in texts)), None)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("stop", ["}", "福田 has", "é guess", "Björn", "</answer>", " ", ". The", "3. The answer is"])
def test_stop_texts_end_where_decoding_everything_says(folders: dict[str, Path], name: str, stop: str):
    """Texts that span tokens, begin and end inside one, hold characters of several bytes, or end in a space."""
    tokenizer = tokenizer_of(folders[name])
    text = "Björn has 12 naïve guesses, 福田 has 3. The answer is \\boxed{9}. 福田 hasn't. </answer> Chloé guesses"
    ids = tokenizer.hf(text, add_special_tokens=False)["input_ids"]
    found = first_hit(StopTexts([stop], tokenizer), ids)
    assert found == slow_hit([stop], tokenizer, ids)
    assert found is not None


def test_stop_texts_agree_with_decoding_everything_on_random_tokens(folders: dict[str, Path]):
    """Random tokens break characters, skip special tokens and hit short texts often."""
    tokenizer = tokenizer_of(folders["qwen3"])
    texts = ["ä", "an", "1 2", "\\b", "e 福"]
    rng, hits = random.Random(0), 0
    pieces = [tokenizer.hf.encode(piece) for piece in ["ä", "福田", " an", "1", " 2", "\\", "box", "e"]]
    for _ in range(300):
        ids = [i for _ in range(12) for i in (*rng.choice(pieces)[: rng.randint(1, 2)], rng.randrange(300))]
        stop = rng.sample(texts, 2)
        expected = slow_hit(stop, tokenizer, ids)
        assert first_hit(StopTexts(stop, tokenizer), ids) == expected
        hits += expected is not None
    assert 50 < hits < 300


def test_a_space_that_a_token_hides_when_it_stands_alone_completes_a_stop_text():
    """Metaspace tokenizers write "a b" as ▁a ▁b, and show ▁b alone as "b"."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "?": 2}, unk_token="?"))
    core.decoder = decoders.Metaspace()
    tokenizer = ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=core), eos_ids=[], template_args={}, label="")
    assert (tokenizer.decode([1]), tokenizer.decode([0, 1])) == ("b", "a b")
    assert first_hit(StopTexts(["a "], tokenizer), [1, 0, 1, 1]) == 3


def test_special_tokens_inside_a_stop_text_do_not_hide_it(folders: dict[str, Path]):
    """They have no text: 40 of them in the middle push the start out of a short tail."""
    tokenizer = tokenizer_of(folders["qwen3"])
    head, tail = (tokenizer.hf(part, add_special_tokens=False)["input_ids"] for part in ("</ans", "wer>"))
    ids = [*head, *[1] * 40, *tail]
    assert first_hit(StopTexts(["</answer>"], tokenizer), ids) == len(ids)


def test_most_tokens_cost_no_decoding(folders: dict[str, Path]):
    tokenizer = tokenizer_of(folders["qwen2"])
    calls: list[int] = []

    class Counting:
        eos_ids, pad_id = tokenizer.eos_ids, tokenizer.pad_id

        def encode_prompt(self, messages: object) -> list[int]:
            raise AssertionError

        def decode(self, token_ids: Sequence[int]) -> str:
            calls.append(len(token_ids))
            return tokenizer.decode(token_ids)

    ids = tokenizer.hf("Ada has 12 apples and gives 3 away. " * 30)["input_ids"]
    stops = StopTexts(["</answer>"], Counting())
    assert first_hit(stops, ids) is None
    assert len(calls) == len(set(ids))  # each token once, on its own; never a tail
