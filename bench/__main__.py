"""`python -m bench` measures everything; `python -m bench backfill search` only these.

`python -m bench chunking --collection PATH` compares chunkers, `python -m bench reduction --collection PATH` what fewer
bytes a token vector cost: both need a collection that is not here.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from bench import backfill, chunking, http, hybrid, memory, reduction, rerank, rollout, search, switch
from bench.figures import Figure, show
from bench.shelf import Server, server

PARTS: dict[str, Callable[[Server], AsyncGenerator[list[Figure]]]] = {
    "backfill": backfill.run,
    "memory": memory.run,
    "switch": switch.run,
    "search": search.run,
    "hybrid": hybrid.run,
    "rerank": rerank.run,
    "http": http.run,
    "rollout": rollout.run,
}
LONG: dict[str, Callable[[Server], AsyncGenerator[list[Figure]]]] = {"million": hybrid.million}
"""Takes half an hour and 10 GB: measured where it is named."""
_TEXTS = 128
_ROUNDS = 2


async def _embedders(peer_python: str | None) -> list[Figure]:
    from bench.embedders import measure

    found = await measure(texts=_TEXTS, tokens=240, rounds=_ROUNDS, peer_python=peer_python)
    rates = found["texts_per_second"]
    peer = rates.get("sentence_transformers")
    ratio = found.get("ratio")
    return [
        Figure(
            name=f"minilm-l6-v2, {found['tokens_a_text']} tokens a text, {found['cores']} cores",
            value=rates["reshelve"],
            unit="texts/s",
            beside="sentence-transformers" if peer else "our own fp32",
            raw=peer or rates["reshelve_fp32"],
            target=">= 3.5 (bf16 CPU)" if peer else None,
            met=None if ratio is None else ratio >= 3.5,
        ),
        Figure(
            name="  least cosine with it",
            value=found["least_cosine"],
            unit="",
            target=">= 0.999",
            met=found["least_cosine"] >= 0.999,
        ),
    ]


async def _measure(names: list[str], peer_python: str | None) -> list[Figure]:
    figures: list[Figure] = []
    if "embedders" in names:
        print("embedders ...", flush=True)
        figures += await _embedders(peer_python)
    with server() as running:
        for name, part in {**PARTS, **LONG}.items():
            if name not in names:
                continue
            print(f"{name} ...", flush=True)
            async for some in part(running):
                figures += some
    return figures


def main() -> None:
    everything = ["embedders", *PARTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    choice = f"{', '.join(everything)}; all of these, if none is named. By name alone: {', '.join(LONG)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=choice)
    parser.add_argument("--collection", type=Path, help="texts and questions, for `chunking` and `reduction`")
    parser.add_argument("--chunk-size", type=int, action="append", help="tokens, for `chunking`; 200. Repeatable")
    parser.add_argument("--peer-python", help="an interpreter that has sentence-transformers, for `embedders`")
    options = parser.parse_args()
    if alone := {"chunking", "reduction"}.intersection(options.names):
        if options.collection is None or len(options.names) > 1:
            parser.error(f"`{alone.pop()}` is measured alone, and needs --collection PATH")
        if "chunking" in alone:
            chunking.run(options.collection, sizes=options.chunk_size or [200])
        else:
            reduction.run(options.collection)
        return
    unknown = set(options.names) - {*everything, *LONG}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join([*everything, *LONG])}")
    began = time.perf_counter()
    figures = asyncio.run(_measure(options.names or everything, options.peer_python))
    show(figures)
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
