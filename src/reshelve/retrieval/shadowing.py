"""Shadow searches: a sample of the live ones also runs on the other side, off the request's path, and is compared."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from reshelve.backends import Backends
from reshelve.domain.indexes import Index
from reshelve.domain.overlap import overlap_at_k, rank_biased_overlap
from reshelve.domain.routes import Arm, Route
from reshelve.errors import DatabaseUnavailable
from reshelve.operations.recording import Place
from reshelve.retrieval.asking import Answer, Options, Result, ask

COMPARED = 10
"""Documents of each side that are compared."""
_log = structlog.get_logger(__name__)


def offer_shadow(backends: Backends, route: Route, answered: Answer, *, arm: Arm, query: str, options: Options) -> None:
    """The serving side's searches are repeated on the candidate, the candidate's on the index that was there before."""
    settings = backends.settings.rollout
    sample = 1.0 if settings.parallel else settings.shadow_sample
    if route.new is None or not settings.enabled or random.random() >= sample:
        return
    other = route.new if arm is Arm.SERVING else route.old
    if options.mode == "lexical" and not other.has_words:
        # It would say so, and be held to have failed.
        return

    async def compare() -> None:
        await _compare(backends, route, other, answered, query=query, options=options)

    backends.spare_time.offer(compare)


async def _compare(
    backends: Backends, route: Route, other: Index, answered: Answer, *, query: str, options: Options
) -> None:
    assert route.new is not None
    place = Place(route.collection_id, route.tenant, other.id, route.arm_of(other.id))
    # A candidate that failed is tried again by its shadows too: while it is only shadowed nothing else would.
    if not backends.breakers.allows(other.id):
        return
    started = time.monotonic()
    timeout = asyncio.timeout(backends.settings.rollout.candidate_timeout_seconds)
    try:
        async with timeout:
            found = await ask(backends, other, query, options)
    except asyncio.CancelledError:
        backends.breakers.released(other.id)
        raise
    except DatabaseUnavailable:
        backends.breakers.released(other.id)
        return
    except Exception as error:  # whatever it is, nobody waits for this answer
        if timeout.expired() and backends.database.was_away(since=started):
            backends.breakers.released(other.id)
            return
        backends.breakers.failed(other.id, str(error) or "no answer in time")
        backends.recorder.count(place, "shadow_error")
        _log.info("a shadow search failed", index=other.id, error=str(error) or type(error).__name__)
        return
    backends.breakers.succeeded(other.id)
    if not backends.database.was_away(since=started):
        backends.recorder.shadow(place, milliseconds=(time.monotonic() - started) * 1000)
    ours, theirs = _documents(answered.results), _documents(found.results)
    if not ours and not theirs:
        # Nothing was there to be found: that both found nothing does not say that they are alike.
        return
    # Both numbers belong to the pair, and are kept with the candidate, whichever side was asked second.
    pair = Place(route.collection_id, route.tenant, route.new.id, Arm.CANDIDATE)
    backends.recorder.count(pair, "overlap", value=overlap_at_k(ours, theirs, COMPARED))
    backends.recorder.count(pair, "rbo", value=rank_biased_overlap(ours, theirs))


def _documents(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.document_id for result in results))[:COMPARED]
