"""Find planning by meaning: sentences whose embedding is close to that of a sentence that plans.

    [planning]
    detector = "embedding_detector:EmbeddingDetector"

Put this file beside the TOML, and `pip install "retrain[embeddings]"` for the model of sentence embeddings. It finds
"Hmm, that cannot be, I had better redo the sum", in which no phrase of the regex detector stands. Look at what it marks
with `retrain rollouts RUN --step 1` before trusting it: the threshold depends on the model.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrain.errors import ConfigError

PLANS = (
    "Wait, let me think about this again.",
    "Let me check whether this is right.",
    "That does not work, so I will try another approach.",
    "The key idea is to look at the problem differently.",
    "First I will find this, and then use it to compute that.",
)
SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s|$)|$)", re.MULTILINE)

Embed = Callable[[Sequence[str]], Any]
"""N sentences to their embeddings [N, D], as anything that numpy reads."""


@dataclass
class EmbeddingDetector:
    """Mark whole sentences whose cosine similarity with one of PLANS is at least `threshold`."""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    threshold: float = 0.5
    embed: Embed | None = None  # instead of `model`
    _plans: Any = field(default=None, init=False, repr=False)  # [len(PLANS), D]

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        if self.embed is None:
            self.embed = load(self.model)
        if self._plans is None:
            self._plans = self._directions(PLANS)
        spans = [[match.span() for match in SENTENCE.finditer(text)] for text in texts]
        sentences = [text[start:end] for text, found in zip(texts, spans, strict=True) for start, end in found]
        if not sentences:
            return [[] for _ in texts]
        close = iter((self._directions(sentences) @ self._plans.T).max(axis=1) >= self.threshold)
        return [[span for span in found if next(close)] for found in spans]

    def _directions(self, sentences: Sequence[str]) -> Any:
        assert self.embed is not None
        vectors = np.asarray(self.embed(sentences), dtype=np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def load(model: str) -> Embed:
    """Load a model of sentence embeddings onto the CPU, where it is in nobody's way.

    Raises:
        ConfigError: sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  an extra of its own
    except ImportError as error:
        message = "the planning detector embedding_detector needs sentence-transformers, not installed here"
        raise ConfigError(message, 'pip install "retrain[embeddings]"') from error
    return SentenceTransformer(model, device="cpu").encode
