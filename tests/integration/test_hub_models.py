"""Models by name from the Hugging Face hub, fetched from a local stand-in for it by the real client.

Each case runs in a process of its own: the client reads its environment once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.model_hub import COMMIT, model_hub
from tests.support.tiny_bert import write_tiny_bert

_PROGRAM = """
import asyncio, sys
from reshelve.embedders.opening import open_embedder, reopen_embedder
from reshelve.errors import ReshelveError
from reshelve.settings import EmbeddingSettings

async def main():
    first = await open_embedder(EmbeddingSettings(model=sys.argv[1]))
    again = await reopen_embedder(first.model, location=first.location, settings=EmbeddingSettings())
    print(first.model.name, first.location, first.model.dimension, again.model == first.model)

try:
    asyncio.run(main())
except ReshelveError as error:
    print(error.code, error)
"""


def opened(name: str, *, hub: str, cache: Path) -> str:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_fetches_once_and_remembers_the_commit(tmp_path: Path) -> None:
    directory, cache = write_tiny_bert(tmp_path / "tiny"), tmp_path / "cache"
    with model_hub("acme/tiny", directory) as hub:
        assert opened("acme/tiny", hub=hub, cache=cache) == f"acme/tiny acme/tiny@{COMMIT} 48 True"
        assert opened("acme/none", hub=hub, cache=cache).startswith(
            "not_found The Hugging Face hub has no model acme/none"
        )
    unreachable = "http://127.0.0.1:9"
    assert opened("acme/tiny", hub=unreachable, cache=cache).endswith("48 True")
    assert opened("acme/other", hub=unreachable, cache=cache).startswith(
        "embedding_unavailable acme/other is not on this"
    )
