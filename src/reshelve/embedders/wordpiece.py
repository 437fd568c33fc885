"""The WordPiece tokenizer that comes with the program.

It is the tokenizer of all-MiniLM-L6-v2 (the vocabulary of bert-base-uncased; both Apache-2.0). Embedders that have no
tokenizer of their own to show count with it, so a chunk has the same size under all of them.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

_FILE = Path(__file__).with_name("wordpiece.json.gz")
_LONGEST_TOKEN = 64
"""Characters. Running text has about 4 a token; a text is cut to this much a token before it is tokenized."""


@cache
def wordpiece() -> Tokenizer:
    """Neither cuts nor pads. Shared: do not change its truncation or padding."""
    tokenizer = Tokenizer.from_str(gzip.decompress(_FILE.read_bytes()).decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut(text: str, *, tokenizer: Tokenizer, max_tokens: int) -> str:
    """The start of `text` that `tokenizer` (one that neither cuts nor pads) makes at most `max_tokens` tokens of."""
    if len(text) <= max_tokens // 2:
        return text
    start = text[: max_tokens * _LONGEST_TOKEN]
    offsets = tokenizer.encode(start, add_special_tokens=False).offsets
    if len(offsets) <= max_tokens and len(start) < len(text):
        start = text
        offsets = tokenizer.encode(start, add_special_tokens=False).offsets
    return start if len(offsets) <= max_tokens else start[: offsets[max_tokens - 1][1]]
