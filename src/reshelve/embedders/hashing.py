"""`hashing-<dimension>`: a lexical embedder without a model, for baselines and tests.

Feature hashing (Weinberger et al., 2009): every word is hashed to one dimension and one sign, and adds
`weight * (1 + ln(count))` there; the sum is normalised. Words are lower-cased and cut to six letters, which stands in
for stemming; the commonest English words weigh a tenth. The same text gives the same vector on every machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from reshelve.domain.models import Embedded, EmbeddingModel, Vectors, check_vectors
from reshelve.embedders.batches import LITTLE_CHARACTERS, prefixed
from reshelve.embedders.wordpiece import wordpiece
from reshelve.errors import SettingsError

LOWEST, HIGHEST = 2, 4000
_REVISION = "1"
"""Changes with anything below that moves a vector."""
_STEM = 6
_COMMON_WEIGHT = 0.1
_COMMON_ENGLISH = """
    a about after all also an and any are as at be because been before between but by can could did do does for from
    had has have he her his how if in into is it its may more most no not of on only or other our over she should so
    some such than that the their them then there these they this those through to under up was we were what when
    where which while who will with would you your
"""
_COMMON = frozenset(_COMMON_ENGLISH.split())
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
"""Scripts that put no spaces between words are taken by the character."""
_REMEMBERED_WORDS = 500_000
_TEXTS_A_STEP = 512
"""So that other threads have their turn between the steps."""

_Features = tuple[int, float]


class HashingEmbedder:
    """Any dimension from 2 to 4,000. Tokens are words. A text without words gets one fixed unit vector."""

    location = ""
    max_tokens = 2**31 - 1
    costs_nothing = True

    def __init__(
        self,
        dimension: int,
        *,
        query_prefix: str = "",
        document_prefix: str = "",
        price_per_million_tokens: float = 0.0,
    ) -> None:
        if not LOWEST <= dimension <= HIGHEST:
            raise SettingsError(
                f"hashing-{dimension}: a hashing model has {LOWEST} to {HIGHEST} dimensions",
                advice="Name it hashing-512, for example.",
            )
        self.model = EmbeddingModel(
            name=f"hashing-{dimension}",
            provider="hashing",
            dimension=dimension,
            revision=_REVISION,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
            pooling="sum",
            price_per_million_tokens=price_per_million_tokens,
        )
        self._features: dict[str, _Features] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return wordpiece()

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        return await self._embed(texts, self.model.document_prefix)

    async def embed_queries(self, texts: Sequence[str]) -> Embedded:
        return await self._embed(texts, self.model.query_prefix)

    async def aclose(self) -> None:
        self._features.clear()

    async def _embed(self, texts: Sequence[str], prefix: str) -> Embedded:
        ready = prefixed(texts, prefix)
        vectors = np.empty((len(ready), self.model.dimension), np.float32)
        tokens = 0
        for start in range(0, len(ready), _TEXTS_A_STEP):
            step = ready[start : start + _TEXTS_A_STEP]
            little = sum(map(len, step)) <= LITTLE_CHARACTERS
            part, words = self._vectors(step) if little else await asyncio.to_thread(self._vectors, step)
            vectors[start : start + len(step)] = part
            tokens += words
        return Embedded(check_vectors(vectors, model=self.model, expected=len(ready)), tokens)

    def _vectors(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Of shape (texts, dimension); and the words in all of them."""
        dimension = self.model.dimension
        places: list[int] = []
        amounts: list[float] = []
        counts: list[int] = []
        tokens = 0
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            tokens += len(words)
            base = row * dimension
            for word, count in Counter(words).items():
                place, weight = self._feature(word)
                places.append(base + place)
                amounts.append(weight)
                counts.append(count)
        added = np.asarray(amounts) * (1.0 + np.log(np.asarray(counts, dtype=np.float64)))
        sums = np.bincount(np.asarray(places, np.int64), added, minlength=len(texts) * dimension).astype(np.float64)
        return _unit(sums.reshape(len(texts), dimension)), tokens

    def _feature(self, word: str) -> _Features:
        """Where a word goes, and its signed weight."""
        found = self._features.get(word)
        if found is None:
            hashed = int.from_bytes(hashlib.blake2b(word[:_STEM].encode(), digest_size=8).digest(), "little")
            weight = _COMMON_WEIGHT if word in _COMMON else 1.0
            found = ((hashed >> 1) % self.model.dimension, weight if hashed & 1 else -weight)
            if len(self._features) >= _REMEMBERED_WORDS:
                self._features.clear()
            self._features[word] = found
        return found


def _unit(sums: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Vectors:
    """Rows of length one; a row of nothing (no words, or words that cancelled out) is the first axis."""
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    nothing = norms[:, 0] < 1e-6
    sums[nothing, 0] = 1.0
    norms[nothing] = 1.0
    return (sums / norms).astype(np.float32)
