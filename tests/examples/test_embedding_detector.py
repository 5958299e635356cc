"""The plugin that finds planning by the meaning of sentences, with an embedding small enough to be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from retrain import registry
from retrain.advantages.planning import build
from retrain.config.schema import Planning
from tests.tokenizers import encode, tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
NAME = "embedding_detector:EmbeddingDetector"
TOPICS = (("wait", "check", "redo", "approach", "think", "idea", "first"), ("apples", "sum", "euros"), ("hello",))


def embed(sentences: Sequence[str]) -> np.ndarray:
    """One number for each topic: how many of a sentence's words are of it. [N, 3]"""
    words = [re.findall(r"[a-z]+", sentence.lower()) for sentence in sentences]
    return np.array([[sum(word in topic for word in found) for topic in TOPICS] for found in words], dtype=np.float32)


def detector(**options: Any) -> Any:
    return registry.resolve("detector", NAME, places=[PLUGINS])(embed=embed, **options)


def test_sentences_close_to_a_planning_one_are_marked_whole():
    text = "Ada has 3.5 apples.  I had better redo that!\nThe sum is 4\nHmm, wait"
    (ranges,) = detector()([text])
    assert [text[start:end] for start, end in ranges] == ["I had better redo that!", "Hmm, wait"]


def test_ranges_stay_with_their_texts():
    assert detector()(["hello.", "", "Wait. Hello.", "redo"]) == [[], [], [(0, 5)], [(0, 4)]]
    assert detector()(["", " \n"]) == [[], []]


def test_a_sentence_that_means_nothing_to_the_model_is_close_to_none():
    """Its embedding is zero, which has no direction."""
    with np.errstate(all="raise"):
        assert detector()(["Mnop qrst."]) == [[]]


def test_the_threshold_is_a_cosine():
    """One word of each of two topics: the cosine with a sentence of one topic alone is 1/√2 = 0.707."""
    assert detector(threshold=0.70)(["wait euros"]) == [[(0, 10)]]
    assert detector(threshold=0.71)(["wait euros"]) == [[]]


def test_it_is_a_detector_of_a_config(monkeypatch: pytest.MonkeyPatch):
    module = registry.resolve("detector", "embedding_detector:load", places=[PLUGINS]).__globals__
    monkeypatch.setitem(module, "load", lambda model: embed)
    planning = build(Planning(detector=NAME), tokenizer("qwen"), [PLUGINS])
    ids, offsets = encode("qwen", "Then 4 apples. Redo it. The sum")
    (row,) = planning([ids], width=len(ids), step=0).tolist()
    assert row == [15 <= start < 23 or start < 15 < end for start, end in offsets]


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    import sys

    from retrain.errors import ConfigError

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "retrain\[embeddings\]"'):
        registry.resolve("detector", NAME, places=[PLUGINS])()(["Wait."])


@pytest.mark.net
def test_the_real_model_tells_planning_from_counting():
    pytest.importorskip("sentence_transformers")
    text = "Wait, I should double check this. Ada has three apples."
    (ranges,) = registry.resolve("detector", NAME, places=[PLUGINS])()([text])
    assert [text[start:end] for start, end in ranges] == ["Wait, I should double check this."]
