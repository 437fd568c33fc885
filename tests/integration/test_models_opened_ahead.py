"""A process that only searches has the next model open before the route names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import reshelve
from reshelve.domain.models import EmbeddingModel
from reshelve.embedders import opening, registry
from reshelve.embedders.protocol import Embedder
from reshelve.errors import EmbeddingUnavailable
from reshelve.settings import EmbeddingSettings, Settings


@pytest.mark.parametrize("answers", [True, False])
async def test_a_reader_opens_the_model_of_a_migration_once(
    settings_of: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """One that cannot be opened is left alone for a while, and the searches go on."""
    settings = settings_of('[rag.embedding]\nmodel = "hashing-64"')
    async with reshelve.connect(settings) as library:
        await library.ingest({"_id": "1", "text": "a book on a shelf"})
    async with reshelve.connect(settings_of('[rag.embedding]\nmodel = "hashing-128"')) as library:
        await library.apply()
    real = opening.reopen_embedder
    asked: list[str] = []

    async def noted(model: EmbeddingModel, *, location: str, settings: EmbeddingSettings) -> Embedder:
        asked.append(model.name)
        if model.name == "hashing-128" and not answers:
            raise EmbeddingUnavailable("it does not answer")
        return await real(model, location=location, settings=settings)

    monkeypatch.setattr(opening, "reopen_embedder", noted)
    monkeypatch.setattr(registry, "_LOOK_SECONDS", 0.0)
    async with reshelve.connect(settings, worker=False) as reader:
        for _ in range(5):
            assert (await reader.search("shelf")).model == "hashing-64"
            await asyncio.sleep(0.02)
    assert sorted(asked) == ["hashing-128", "hashing-64"]
