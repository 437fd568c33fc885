"""The engine's peak memory over a backfill and a comparison, of a small collection and of one ten times as large.

`python -m bench.memory OWNER SERVICE` is the process that is measured; it prints its peak in MiB.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from bench.backfill import DIMENSION, backfill_seconds
from bench.figures import Figure
from bench.free_embedder import FreeEmbedder
from bench.shelf import Server, opened, put_in, settings_for
from reshelve.database.routes import get_route
from reshelve.indexing.comparing import compare

FEW, MANY = 20_000, 200_000
_MOST = 1.1


async def run(server: Server) -> AsyncGenerator[list[Figure]]:
    database = server.database("memory")
    peaks: list[float] = []
    async with opened(settings_for(database, '[rag.embedding]\nmodel = "hashing-64"\n'), worker=False) as library:
        for rows in (FEW, MANY - FEW):
            await put_in(library, rows, fed=False)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.memory", *database, stdout=asyncio.subprocess.PIPE
            )
            printed, _ = await process.communicate()
            peaks.append(float(printed))
    yield [
        Figure(
            name=f"peak memory of the engine, backfill of {MANY:,} chunks",
            value=peaks[1],
            unit="MiB",
            beside=f"of {FEW:,}",
            raw=peaks[0],
            target=f"<= {_MOST} of it",
            met=peaks[1] <= _MOST * peaks[0],
        )
    ]


async def main(owner: str, service: str) -> None:
    settings = settings_for((owner, service), f'[rag.embedding]\nmodel = "hashing-{DIMENSION}"\n')
    async with opened(settings, free=FreeEmbedder(DIMENSION)) as library:
        await backfill_seconds(library)
        async with library.backends.database.service() as connection:
            route = await get_route(connection, library.settings.collection)
        await compare(library.backends, route.serving)
    print(_peak_mebibytes())


def _peak_mebibytes() -> float:
    """Of this program alone: getrusage would count the parent's memory from before the exec."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
