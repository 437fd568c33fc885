"""What a search is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any, get_args

from reshelve.domain.routes import Arm
from reshelve.errors import InputError
from reshelve.retrieval.asking import MAX_DEPTH, Mode, Options, Result
from reshelve.retrieval.cursors import digest
from reshelve.retrieval.models import Aggregation
from reshelve.retrieval.reranking import Rerank

MAX_QUERY_CHARACTERS = 20_000


def check_choice(name: str, given: object, choices: Sequence[str]) -> None:
    if given is not None and given not in choices:
        raise InputError(f"{name} is {given!r:.100}", advice=f"Give one of {', '.join(choices)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """`user` and `session` say who asks: during a rollout the same one is always answered by the same side.

    `models` asks the indexes of these models instead of the route's, and fuses their answers by rank. `cursor` is the
    `next` of the page before: the same index answers, and it is not counted among the live searches.
    """

    query: str
    collection: str
    options: Options = field(default_factory=Options)
    user: str | None = None
    session: str | None = None
    index_id: int | None = None
    interleave: bool = False
    models: tuple[str, ...] = ()
    aggregation: Aggregation = "union"
    cursor: str | None = None

    @property
    def digest(self) -> str:
        """Of what the pages of one search have in common."""
        asked = replace(self.options, top_k=1, offset=0, highlight=False, explain=False)
        return digest(self.query, self.collection, self.models, self.aggregation, self.index_id, asked)

    def unit(self, sticky_by: str) -> str | None:
        return {"user": self.user, "session": self.session, "tenant": self.options.scope.tenant}[sticky_by] or None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResponse:
    """`query_model` made the query's vector and `model` the index's: the same, always. None: by words alone.

    `mode` is how the index was searched: `dense` where it has no words. `legs_ms` is what each part of the search took;
    the legs run side by side. `arm` is the side that answered; `fell_back` says why the candidate did not, where it
    should have. An interleaved response has results of both sides, each with its own index and model. `cached`: it was
    kept from an earlier search. `next` is the cursor of the next page; None: there is none.
    """

    results: list[Result]
    index: int
    model: str
    query_model: str | None
    epoch: int
    mode: Mode
    embed_ms: float
    search_ms: float
    legs_ms: dict[str, float]
    search_id: str
    arm: Arm
    fell_back: str | None = None
    interleaved: bool = False
    cached: bool = False
    total_ms: float
    next: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_query(query: object, options: Options) -> None:
    """Also of what only Python lets through: the wrong types, and names that there are not."""
    if not isinstance(query, str):
        raise InputError(f"the query is of type {type(query).__name__}", advice="Give a string.")
    numbers: dict[str, tuple[object, type]] = {
        "top_k": (options.top_k, Integral),
        "offset": (options.offset, Integral),
        "min_score": (0 if options.min_score is None else options.min_score, Real),
    }
    for name, (number, kind) in numbers.items():
        if not isinstance(number, kind):
            raise InputError(f"{name} is {number!r:.100}", advice=f"Give a number ({kind.__name__.lower()}).")
    check_choice("mode", options.mode, get_args(Mode))
    check_choice("rerank", options.rerank, get_args(Rerank))
    if not query.strip():
        raise InputError("the query is empty", advice="Give at least one word.")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise InputError(
            f"the query has {len(query):,} characters; {MAX_QUERY_CHARACTERS:,} are the most", advice="Shorten it."
        )
    if "\0" in query:
        raise InputError("the query holds a NUL character", advice="Remove it.")
    if not 1 <= options.top_k <= MAX_DEPTH:
        raise InputError(f"top_k is {options.top_k}; it must be from 1 to {MAX_DEPTH:,}")
    if options.offset < 0 or options.end > MAX_DEPTH:
        raise InputError(
            f"offset is {options.offset:,} and top_k {options.top_k:,}; together they must be from 1 to {MAX_DEPTH:,}",
            advice="Ask a narrower question: nobody reads that far.",
        )
    if options.min_score is not None and not math.isfinite(options.min_score):
        raise InputError("min_score is not a number")
