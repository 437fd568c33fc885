"""A question that was asked before is not embedded again, and counts as a cache hit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import reshelve
from reshelve.settings import Settings
from tests.support.embedding_endpoint import EmbeddingEndpoint
from tests.support.writers import documents


@pytest.mark.parametrize(
    ("more", "embedded"),
    [("", 2), ("cache_enabled = false", 4), ("cache_size = 1", 3), ("cache_ttl_seconds = 1e-9", 4)],
)
async def test_a_question_is_embedded_once(settings_of: Callable[[str], Settings], more: str, embedded: int) -> None:
    with EmbeddingEndpoint() as endpoint:
        settings = f'model = "m"\nprovider = "openai"\nbase_url = "{endpoint.base_url}"\napi_key = "k"\n{more}'
        async with reshelve.connect(settings_of("[rag.embedding]\n" + settings)) as library:
            await library.ingest(documents(3))
            endpoint.requests.clear()
            found = [await library.search(query) for query in ("one", "one", "two", "one")]
            assert len(endpoint.requests) == embedded
            assert [each.results for each in found[:2]] == [found[3].results] * 2
            await library.backends.recorder.flush()
            arms = (await library.dashboard()).as_dict()["arms"]
            assert arms[0]["figures"]["cache_hits"] == 4 - embedded
