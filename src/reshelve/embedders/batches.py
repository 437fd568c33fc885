"""Texts made ready for a model, and divided into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence

from reshelve.errors import EmbeddingRefused

LITTLE_CHARACTERS = 2000
"""A query or so: a way to another thread and back costs more than to do it here."""


def prefixed(texts: Sequence[str], prefix: str) -> list[str]:
    """`prefix` before every text. Raises EmbeddingRefused for a text that is not valid Unicode (a lone surrogate)."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise EmbeddingRefused(
            f"A text holds an unpaired surrogate at character {error.start}: it is not valid Unicode",
            advice="Decode the source with its right encoding, or with errors='replace'.",
        ) from None
    return [prefix + text for text in texts] if prefix else list(texts)


def batches_by_length(lengths: Sequence[int], *, padded_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of about equal length, longest first, so that little is padded.

    A batch's size times its longest length stays within `padded_tokens`, except for a text that is longer alone.
    """
    batch: list[int] = []
    longest = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and longest * (len(batch) + 1) > padded_tokens:
            yield batch
            batch = []
        if not batch:
            longest = max(1, lengths[position])
        batch.append(position)
    if batch:
        yield batch


def batches_in_order(weights: Sequence[int], *, count: int, weight: int) -> Iterator[range]:
    """Neighbours in batches of at most `count` positions and `weight` together; what is heavier alone goes alone."""
    start = 0
    load = 0
    for position, added in enumerate(weights):
        if position > start and (position - start == count or load + added > weight):
            yield range(start, position)
            start = position
            load = 0
        load += added
    if start < len(weights):
        yield range(start, len(weights))


async def all_or_first_error(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all at once. The first error stops the others and is raised as it is, in no ExceptionGroup."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
