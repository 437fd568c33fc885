"""Questions, and answers that name the passages they rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reshelve.domain.indexes import Scope
from reshelve.library.part import Part

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from reshelve.answering.results import Answered, Event
    from reshelve.domain.styles import Style


class Answers(Part):
    async def ask(
        self,
        question: str,
        *,
        top_k: int | None = None,
        tenant: str = "",
        filters: dict[str, Any] | None = None,
        user: str | None = None,
        session: str | None = None,
        model: str | None = None,
        style: Style | None = None,
        summary: bool | None = None,
    ) -> Answered:
        """The answer, from the `top_k` best passages, with its checked citations; or that they do not hold one.

        The passages are found as `search` finds them. `style` and `summary` None: by the wording of the question.
        Raises AnswerError where the language model fails.
        """
        from reshelve.answering.answers import whole

        events = self.ask_events(
            question,
            top_k=top_k,
            tenant=tenant,
            filters=filters,
            user=user,
            session=session,
            model=model,
            style=style,
            summary=summary,
        )
        return await whole(events)

    def ask_events(
        self,
        question: str,
        *,
        top_k: int | None = None,
        tenant: str = "",
        filters: dict[str, Any] | None = None,
        user: str | None = None,
        session: str | None = None,
        model: str | None = None,
        style: Style | None = None,
        summary: bool | None = None,
    ) -> AsyncGenerator[Event]:
        """The same as it comes: `Passages`, then `Delta`s, then `Answered`. Close it (`contextlib.aclosing`)."""
        from reshelve.answering.answers import answer_events
        from reshelve.answering.results import Question
        from reshelve.domain.filters import parse_filter
        from reshelve.retrieval.asking import Options
        from reshelve.retrieval.requests import SearchRequest

        search = SearchRequest(
            query=question,
            collection=self.settings.collection,
            options=Options(
                top_k=self.settings.answering.top_k if top_k is None else top_k,
                scope=Scope(tenant=tenant, filter=parse_filter(filters)),
            ),
            user=user,
            session=session,
            models=() if model is None else (model,),
        )
        return answer_events(self.backends, Question(search=search, style=style, summary=summary))
