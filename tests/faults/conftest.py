"""A collection on one model, and settings files for the programs that move it to another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import reshelve
from tests.support.writers import documents

ROWS = 300


@dataclass(frozen=True)
class Scene:
    """`library` serves `hashing-64` and feeds nothing by itself; `target` is a settings file that asks for another."""

    library: reshelve.Library
    target: Path
    declare: Callable[..., Path]


@pytest.fixture
def declare(database_urls: tuple[str, str], tmp_path: Path) -> Callable[..., Path]:
    def write(model: str = "hashing-64", *, backend: str = "pgvector", extra: str = "") -> Path:
        file = tmp_path / "rag.toml"
        file.write_text(
            f'[rag.database]\nurl = "{database_urls[0]}"\nservice_url = "{database_urls[1]}"\n'
            f'[rag.vector_storage]\nbackend = "{backend}"\n[rag.embedding]\nmodel = "{model}"\n'
            f"[rag.migration]\nlease_seconds = 0.5\nrange_rows = 40\n{extra}",
            encoding="utf-8",
        )
        return file

    return write


@pytest.fixture
async def scene(declare: Callable[..., Path]) -> AsyncGenerator[Scene]:
    async with reshelve.connect(declare()) as library:
        await library.ingest(documents(ROWS))
    async with reshelve.connect(declare(), worker=False) as library:
        yield Scene(library, declare("hashing-128"), declare)
