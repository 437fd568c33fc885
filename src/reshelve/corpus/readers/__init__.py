"""Files turned into documents. What is wrong with one file or row is yielded as a refusal; the rest goes on."""

from __future__ import annotations

from reshelve.corpus.readers.formats import FORMATS
from reshelve.corpus.readers.mapping import from_mapping
from reshelve.corpus.readers.reading import read_documents

__all__ = ["FORMATS", "from_mapping", "read_documents"]
