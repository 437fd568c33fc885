"""What a question brings, and what comes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from reshelve.domain.chats import Message
from reshelve.domain.routes import Arm
from reshelve.domain.styles import Style
from reshelve.retrieval.asking import Result
from reshelve.retrieval.requests import SearchRequest

AnsweredBy = Literal["llm", "extractive", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`search` finds the passages; `style` and `summary` None: by the wording of the question.

    In a chat, `history` is what was said last, and `memory` what the user said earlier of the same; both oldest first.
    A chat goes on where there is no collection of documents.
    """

    search: SearchRequest
    style: Style | None = None
    summary: bool | None = None
    chat: bool = False
    history: tuple[Message, ...] = ()
    memory: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """Passage `number` (from 1) of the answer's passages. `start` and `end` are code points of the document's text."""

    number: int
    document_id: str
    title: str
    chunk_id: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """What was found, in the order of their numbers: the first event of an answer. Empty for small talk."""

    passages: list[Result]
    search_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The next piece of the answer; marks of passages that are not there have been taken out of it."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`answered_by`: a language model (`llm` names it), "extractive" (the best sentences of the passages), or "local".

    `abstained`: the passages do not hold an answer, and `answer` says so. `dropped_citations` named passages that were
    not there. The fields of the search are null where none was made.
    """

    answer: str
    abstained: bool
    answered_by: AnsweredBy
    llm: str | None
    style: Style
    summary: bool
    citations: list[Citation]
    dropped_citations: int
    passages: list[Result]
    search_id: str | None
    index: int | None
    model: str | None
    epoch: int | None
    arm: Arm | None
    fell_back: str | None
    search_ms: float
    answer_ms: float
    total_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Event = Passages | Delta | Answered
