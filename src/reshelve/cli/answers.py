"""`ask`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import aclosing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from reshelve.cli.options import FilterOption, JsonOption, TenantOption, WhereOption
from reshelve.cli.search import filters_of
from reshelve.cli.session import Answer, Session, perform
from reshelve.cli.words import counted, one_line, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.answering.results import Answered


class Style(StrEnum):
    MINIMAL = "minimal"
    CONCISE = "concise"
    DETAILED = "detailed"


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to answer.")],
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", min=1, max=100, help="From how many passages."),
    ] = None,
    style: Annotated[
        Style | None, typer.Option("--style", help="How long an answer. Default: by the question's wording.")
    ] = None,
    summary: Annotated[
        bool | None, typer.Option("--summary/--no-summary", help="From more passages. Default: by the wording.")
    ] = None,
    tenant: TenantOption = "",
    where: WhereOption = None,
    filter: FilterOption = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who asks: a rollout keeps each user on one side.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Search this model's index instead of the route's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question from the documents, naming the passages that the answer rests on."""
    filters = filters_of(where or [], filter)

    async def work(session: Session) -> Answer:
        from reshelve.answering.results import Answered, Delta

        done: Answered | None = None
        async with session.library() as library:
            events = library.ask_events(
                question,
                top_k=top_k,
                style=style.value if style is not None else None,
                summary=summary,
                tenant=tenant,
                filters=filters,
                user=user,
                model=model,
            )
            begun = False
            try:
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, Answered):
                            done = event
                        elif isinstance(event, Delta) and not as_json:
                            begun = True
                            sys.stdout.write(printable(event.text))
                            sys.stdout.flush()
            finally:
                if begun:
                    sys.stdout.write("\n")
        assert done is not None
        return Answer(document=done.as_dict(), lines=list(_lines(done)))

    perform(context, work, as_json=as_json)


def _lines(done: Answered) -> Iterator[RenderableType]:
    from rich.text import Text

    if done.citations:
        yield ""
    for each in done.citations:
        name = one_line(each.title or each.document_id)
        place = f"  {one_line(each.document_id)} [{each.start}:{each.end}]"
        yield Text.assemble((f"[{each.number}] ", "dim"), (name, "bold"), (place, "dim"))
    yield ""
    yield Text(_how(done), "dim")


def _how(done: Answered) -> str:
    if done.answered_by == "local":
        return "answered without a search"
    by = f"by {one_line(done.llm)}" if done.llm is not None else "extractive: no language model was asked"
    dropped = f", {counted(done.dropped_citations, 'citation')} dropped" if done.dropped_citations else ""
    return (
        f"{by} · {done.style}, from {counted(len(done.passages), 'passage')} of index {done.index}{dropped} · "
        f"search {done.search_ms:.1f} ms, answer {done.answer_ms:.1f} ms"
    )
