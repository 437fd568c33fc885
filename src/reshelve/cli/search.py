"""`search` and `models`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from reshelve.cli.options import (
    FilterOption,
    IndexOption,
    JsonOption,
    ModeOption,
    RerankOption,
    TenantOption,
    WhereOption,
)
from reshelve.cli.session import Answer, Session, perform
from reshelve.cli.words import counted, one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from reshelve.domain.documents import Place
    from reshelve.retrieval.asking import Result
    from reshelve.retrieval.requests import SearchResponse

_SNIPPET_CHARACTERS = 240
_SHOWN_HEADINGS = 3


class Aggregation(StrEnum):
    UNION = "union"
    INTERSECTION = "intersection"


def register(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(models)


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many results.")] = 10,
    tenant: TenantOption = "",
    where: WhereOption = None,
    filter: FilterOption = None,
    index: IndexOption = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="Who asks: a rollout keeps each user on one side.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Ask this model's index instead of the route's. Repeatable."),
    ] = None,
    aggregation: Annotated[
        Aggregation, typer.Option("--aggregation", help="Of several models: what any of them found, or what each did.")
    ] = Aggregation.UNION,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, past the HNSW graph.")] = False,
    mode: ModeOption = None,
    rerank: RerankOption = None,
    offset: Annotated[int, typer.Option("--offset", help="Leave out so many of the best.")] = 0,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="TEXT", help="The page after the one that ended with this.")
    ] = None,
    min_score: Annotated[float | None, typer.Option("--min-score", help="Leave out what scores less.")] = None,
    diversify: Annotated[bool, typer.Option("--diversify", help="The best chunk of each document first.")] = False,
    highlight: Annotated[bool, typer.Option("--highlight", help="Mark the query's words.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say which leg had a chunk where.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search the collection, by meaning and by words."""
    filters = filters_of(where or [], filter)

    async def work(session: Session) -> Answer:
        async with session.library() as library:
            found = await library.search(
                query,
                top_k=top_k,
                tenant=tenant,
                filters=filters,
                user=user,
                index=index,
                models=model or (),
                aggregation=aggregation.value,
                exact=exact,
                mode=None if mode is None else mode.value,
                rerank=None if rerank is None else rerank.value,
                offset=offset,
                cursor=cursor,
                min_score=min_score,
                diversify=diversify,
                highlight=highlight,
                explain=explain,
            )
        return Answer(document=found.as_dict(), lines=list(_results(found, offset=offset)))

    perform(context, work, as_json=as_json)


def filters_of(where: Sequence[str], filter: str | None) -> dict[str, Any] | None:
    """Both must hold, where both are given."""
    wanted = _where(where)
    if filter is None:
        return wanted
    try:
        found = json.loads(filter, parse_constant=lambda name: name)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"it is no JSON: {error}", param_hint="--filter") from None
    if not isinstance(found, dict):
        raise typer.BadParameter("it is no JSON object", param_hint="--filter")
    return {"$and": [wanted, found]} if wanted is not None else cast("dict[str, Any]", found)


def _where(where: Sequence[str]) -> dict[str, Any] | None:
    wanted: dict[str, Any] = {}
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{condition!r} is not KEY=VALUE", param_hint="--where")
        if key in wanted:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint="--where")
        wanted[key] = _value(value)
    return wanted or None


def _value(text: str) -> Any:
    """JSON if it is JSON, else the text itself. NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return text


def _results(found: SearchResponse, *, offset: int) -> Iterator[RenderableType]:
    for rank, result in enumerate(found.results, offset + 1):
        yield from _result(rank, result)
    if not found.results:
        yield "nothing found"
    yield ""
    yield _dim(
        f"{counted(len(found.results), 'result')} from index {found.index} ({one_line(found.model)}) · "
        f"{found.mode} · embed {found.embed_ms:.1f} ms, search {found.search_ms:.1f} ms "
        f"({', '.join(f'{name} {milliseconds:.1f}' for name, milliseconds in found.legs_ms.items())})"
    )
    if found.next is not None:
        yield _dim(f"next page: --cursor {found.next}")


def _result(rank: int, result: Result) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text.assemble(
        (f"{rank:>3}. ", "dim"),
        (one_line(result.title or result.document_id), "bold"),
        (f"  {result.score:.4f}  {one_line(result.document_id)} [{result.start}:{result.end}]", "dim"),
        (_said(result.place), "dim"),
    )
    yield _snippet(result)
    for leg, standing in (result.legs or {}).items():
        yield _dim(f"     {leg}: rank {standing.rank}, score {standing.score:.4f}, adds {standing.share:.4f}")


def _snippet(result: Result) -> RenderableType:
    """The chunk's beginning, or, where words are marked, what stands around the first of them."""
    from rich.text import Text

    if not result.highlights:
        return Text("     " + one_line(result.content, most=_SNIPPET_CHARACTERS))
    first, _ = result.highlights[0]
    begin = max(0, first - _SNIPPET_CHARACTERS // 4)
    window = result.content[begin : begin + _SNIPPET_CHARACTERS]
    # Character by character, so that the words stay where they are.
    snippet = Text("".join(character if character.isprintable() else " " for character in window))
    for start, end in result.highlights:
        if begin <= start < begin + len(window):
            snippet.stylize("bold yellow", start - begin, end - begin)
    return Text("     " if begin == 0 else "   … ").append_text(snippet)


def _said(place: Place) -> str:
    """A chunk's place in words: a page or row, or several, and the innermost headings."""
    said = ""
    for word, first, last in (("page", place.page, place.last_page), ("row", place.row, place.last_row)):
        if first is not None:
            said += f" {word} {first:,}" if last is None else f" {word}s {first:,}-{last:,}"
    return said + (f" § {one_line(' › '.join(place.headings[-_SHOWN_HEADINGS:]))}" if place.headings else "")


def _dim(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, "dim")


def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the registered embedding models."""
    perform(context, _models, as_json=as_json)


async def _models(session: Session) -> Answer:
    from rich import box
    from rich.table import Table

    async with session.library() as library:
        known = await library.models()
    table = Table("model", "provider", "dimension", "$/M tokens", "indexes", "fingerprint", box=box.SIMPLE_HEAD)
    for model in known:
        table.add_row(
            one_line(model["model"]),
            model["provider"],
            f"{model['dimension']:,}",
            f"{model['price_per_million_tokens']:g}",
            str(model["indexes"]),
            model["fingerprint"],
        )
    nothing = "no model is registered yet: the first `reshelve ingest` does that"
    return Answer(document={"models": known}, lines=[table if known else nothing])
