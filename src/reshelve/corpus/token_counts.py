"""How many tokens a text has, special tokens not counted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

_WORD_PRE_TOKENIZERS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
_CHARACTER_NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
# Python splits at these, and tokenizers remove them or keep them.
_DISPUTED_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CACHED_WORDS = 200_000
_CACHED_WORD_LENGTH = 64


class TokenCounter:
    """Counts with `tokenizer`, which must have neither truncation nor padding.

    Where no token can reach over white space, a text has the tokens of its words, and words come again: looking them up
    is ten times as fast as encoding the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._by_words = splits_at_white_space(json.loads(tokenizer.to_str()))
        self._words: dict[str, int] = {}

    def count(self, text: str) -> int:
        if not self._by_words or _DISPUTED_SPACE.search(text):
            return self._encoded(text)
        words = self._words
        total = 0
        for word in text.split():
            tokens = words.get(word)
            total += self._learned(word) if tokens is None else tokens
        return total

    def _learned(self, word: str) -> int:
        tokens = self._encoded(word)
        if len(word) <= _CACHED_WORD_LENGTH:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            self._words[word] = tokens
        return tokens

    def _encoded(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def token_ends(self, text: str) -> list[int]:
        """Where each token ends, in code points."""
        return [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]

    def start(self, text: str, *, tokens: int) -> str:
        """The longest start of the text that has at most so many tokens, cut where a token ends."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        kept = text if len(encoding) <= tokens else text[: encoding.offsets[tokens - 1][1]]
        # A text cut inside a word may come out as more tokens than the word had.
        while kept and self.count(kept) > tokens:
            kept = kept[:-1]
        return kept.rstrip()


def splits_at_white_space(definition: Mapping[str, Any]) -> bool:
    """Whether a tokenizer with this definition (its JSON) gives a text the tokens of its words, one after the other."""
    pre_tokenizer: dict[str, Any] = definition.get("pre_tokenizer") or {}
    normalizer: dict[str, Any] = definition.get("normalizer") or {"normalizers": []}
    normalizers: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    return (
        pre_tokenizer.get("type") in _WORD_PRE_TOKENIZERS
        and all(step.get("type") in _CHARACTER_NORMALIZERS for step in normalizers)
        and not any(
            token["lstrip"] or token["rstrip"] or token["single_word"] or len(token["content"].split()) != 1
            for token in definition.get("added_tokens", ())
        )
    )
