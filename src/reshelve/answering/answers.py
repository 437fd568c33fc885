"""Questions answered: the passages are found, and a language model, or the passages themselves, say the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import get_args

from reshelve.answering.prompts import prompt
from reshelve.answering.results import Answered, AnsweredBy, Citation, Delta, Event, Passages, Question
from reshelve.backends import Backends
from reshelve.database.routes import find_route, get_route
from reshelve.domain.citations import CheckedAnswer
from reshelve.domain.extracts import extract
from reshelve.domain.figures import bin_of
from reshelve.domain.greetings import local_answer
from reshelve.domain.styles import Style, WordLimits, asks_for_summary, style_of, summary_top_k
from reshelve.errors import AnswerError
from reshelve.operations.recording import Place
from reshelve.retrieval.asking import Result
from reshelve.retrieval.requests import SearchResponse, check_choice, check_query
from reshelve.retrieval.search import search
from reshelve.settings import AnsweringSettings

ABSTENTION = "The passages that were found do not hold an answer to this."


async def whole(events: AsyncGenerator[Event]) -> Answered:
    """The whole answer, which the events end with."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Answered):
                return event
    raise AssertionError("the events of an answer end with it")


async def answer_events(backends: Backends, question: Question) -> AsyncGenerator[Event]:
    """Passages, then pieces of the answer, then all of it with its checked citations.

    Raises what the search raises, and AnswerError where the language model fails.
    Closing it early closes the request to the language model.
    """
    settings = backends.settings.answering
    check_query(question.search.query, question.search.options)
    check_choice("style", question.style, get_args(Style))
    draft = _Draft(_wanted(question, settings), question)
    reply = local_answer(question.search.query) if settings.local_routing else None
    if reply is not None:
        yield Passages(passages=[], search_id=None)
        yield Delta(text=reply)
        yield draft.finished(reply, by="local")
        return
    options = replace(question.search.options, top_k=draft.wanted.top_k, diversify=draft.wanted.summary)
    draft.take(await _search(backends, replace(question, search=replace(question.search, options=options))))
    place = await _place(backends, question, draft)
    yield Passages(passages=draft.passages, search_id=draft.found and draft.found.search_id)
    checked = CheckedAnswer(passages=len(draft.passages), may_abstain=backends.llm is not None)
    try:
        async with aclosing(_pieces(backends, draft)) as pieces:
            async for piece in pieces:
                if shown := checked.feed(piece):
                    yield Delta(text=shown)
    except AnswerError:
        _count(backends, place, None)
        raise
    if shown := checked.end():
        yield Delta(text=shown)
    if checked.abstained or not checked.text:
        yield Delta(text=ABSTENTION)
    asked = backends.llm if draft.tellable else None
    done = draft.checked(checked, llm=asked.model if asked is not None else None)
    _count(backends, place, done)
    yield done


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What kind of answer: by the request, else the settings, else the wording of the question."""

    question: str
    style: Style
    max_words: int
    summary: bool
    top_k: int


def _wanted(question: Question, settings: AnsweringSettings) -> _Wanted:
    asked, given = question.search.query, question.search.options.top_k
    summary = asks_for_summary(asked) if question.summary is None else question.summary
    usual: Style | None = None if settings.style == "auto" else settings.style
    style: Style = question.style or usual or ("detailed" if summary else style_of(asked))
    limits = WordLimits(
        minimal=settings.style_minimal_max_words,
        concise=settings.style_concise_max_words,
        detailed=settings.style_detailed_max_words,
    )
    return _Wanted(
        question=asked,
        style=style,
        max_words=limits.of(style),
        summary=summary,
        top_k=summary_top_k(given, most=settings.summary_max_top_k) if summary else given,
    )


@dataclass(slots=True)
class _Draft:
    """An answer that is being made."""

    wanted: _Wanted
    question: Question
    found: SearchResponse | None = None
    passages: list[Result] = field(default_factory=list[Result])
    started: float = field(default_factory=time.perf_counter)
    search_ms: float = 0.0

    @property
    def tellable(self) -> bool:
        """Whether there is anything to ask a model about: without passages only in a chat."""
        return bool(self.passages) or self.question.chat

    def take(self, found: SearchResponse | None) -> None:
        self.found = found
        self.passages = found.results if found is not None else []
        self.search_ms = (time.perf_counter() - self.started) * 1000

    def checked(self, checked: CheckedAnswer, *, llm: str | None) -> Answered:
        abstained = checked.abstained or not checked.text
        return self.finished(
            ABSTENTION if abstained else checked.text,
            by="extractive" if llm is None else "llm",
            llm=llm,
            abstained=abstained,
            cited=[] if abstained else checked.cited,
            dropped=checked.dropped,
        )

    def finished(
        self,
        text: str,
        *,
        by: AnsweredBy,
        llm: str | None = None,
        abstained: bool = False,
        cited: Sequence[int] = (),
        dropped: int = 0,
    ) -> Answered:
        total_ms = (time.perf_counter() - self.started) * 1000
        found = self.found
        return Answered(
            answer=text,
            abstained=abstained,
            answered_by=by,
            llm=llm,
            style=self.wanted.style,
            summary=self.wanted.summary,
            citations=[_citation(number, self.passages[number - 1]) for number in cited],
            dropped_citations=dropped,
            passages=self.passages,
            search_id=found.search_id if found is not None else None,
            index=found.index if found is not None else None,
            model=found.model if found is not None else None,
            epoch=found.epoch if found is not None else None,
            arm=found.arm if found is not None else None,
            fell_back=found.fell_back if found is not None else None,
            search_ms=self.search_ms,
            answer_ms=total_ms - self.search_ms,
            total_ms=total_ms,
        )


async def _search(backends: Backends, question: Question) -> SearchResponse | None:
    """None in a chat where there are no documents to search."""
    if question.chat:
        async with backends.database.service() as connection:
            if await find_route(connection, question.search.collection) is None:
                return None
    return await search(backends, question.search)


async def _pieces(backends: Backends, draft: _Draft) -> AsyncGenerator[str]:
    wanted, passages = draft.wanted, draft.passages
    if not draft.tellable:
        return
    if backends.llm is None:
        parts = [_heading_and_text(passage) for passage in passages]
        support = backends.settings.answering.min_support
        # Off the event loop: many long passages take a while.
        said = await asyncio.to_thread(extract, wanted.question, parts, max_words=wanted.max_words, min_support=support)
        yield said.text
        return
    messages = prompt(
        wanted.question,
        passages,
        style=wanted.style,
        max_words=wanted.max_words,
        summary=wanted.summary,
        chat=draft.question.chat,
        history=draft.question.history,
        memory=draft.question.memory,
    )
    async with aclosing(backends.llm.answer(messages)) as pieces:
        async for piece in pieces:
            yield piece


def _heading_and_text(passage: Result) -> tuple[str, str]:
    """A chunk is its document's title and a slice of its text. One without a slice is the title alone."""
    length = passage.end - passage.start
    return (passage.title, passage.content[-length:] if length else passage.content)


def _citation(number: int, passage: Result) -> Citation:
    return Citation(
        number=number,
        document_id=passage.document_id,
        title=passage.title,
        chunk_id=passage.chunk_id,
        start=passage.start,
        end=passage.end,
    )


async def _place(backends: Backends, question: Question, draft: _Draft) -> Place | None:
    """Answers are counted as searches are, under the index and the side that the route chose; None where it did not."""
    asked, found = question.search, draft.found
    if found is None or asked.models:
        return None
    route = await backends.database.read(lambda opened: get_route(opened, asked.collection, asked.options.scope.tenant))
    return Place(route.collection_id, route.tenant, found.index, found.arm)


def _count(backends: Backends, place: Place | None, done: Answered | None) -> None:
    """`done` None: it came to nothing."""
    if place is None:
        return
    if done is None:
        backends.recorder.count(place, "answer_error")
        return
    backends.recorder.count(place, "answer", bin=bin_of(done.answer_ms), value=done.answer_ms)
    names = ["answer_extractive"] if done.answered_by == "extractive" else []
    names += ["answer_abstained"] if done.abstained else []
    names += ["citation"] * len(done.citations) + ["citation_dropped"] * done.dropped_citations
    for name in names:
        backends.recorder.count(place, name)
