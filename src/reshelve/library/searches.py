"""Searches, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reshelve.domain.indexes import Scope
from reshelve.errors import InputError
from reshelve.library.part import Part

if TYPE_CHECKING:
    from reshelve.evaluation.judged import Judged
    from reshelve.evaluation.runs import Evaluation
    from reshelve.indexing.refreshing import DocumentEmbeddings
    from reshelve.retrieval.asking import Mode
    from reshelve.retrieval.models import Aggregation, SearchableModel
    from reshelve.retrieval.requests import SearchResponse
    from reshelve.retrieval.reranking import Rerank


class Searches(Part):
    async def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        tenant: str = "",
        filters: Mapping[str, Any] | None = None,
        user: str | None = None,
        session: str | None = None,
        index: int | None = None,
        exact: bool = False,
        interleave: bool = False,
        models: Sequence[str] = (),
        aggregation: Aggregation = "union",
        mode: Mode | None = None,
        rerank: Rerank | None = None,
        offset: int = 0,
        cursor: str | None = None,
        min_score: float | None = None,
        diversify: bool = False,
        highlight: bool = False,
        explain: bool = False,
    ) -> SearchResponse:
        """The best chunks, best first, each with its document, score, index and model.

        `mode` is `dense` (by meaning), `lexical` (by words) or `hybrid` (both); None: what `rag.search.mode` says.
        `rerank` (`none`, `late_interaction` or `cross_encoder`; None: what `rag.search.rerank` says) puts the best in a
        better order. A page begins at `offset`, or where `cursor`, the `next` of the page before, says. `min_score`
        leaves out what scores less, `diversify` puts the best chunk of each document first, `highlight` finds the
        query's words in the chunks, `explain` says which leg of the search had a chunk where.

        `filters` says which documents may be found, by their metadata; docs/reference.md has its syntax. `user` and
        `session` keep one person on one side of a rollout; `index` asks one index instead of the route's; `exact`
        compares with every vector; `interleave` takes turns between both sides of a rollout, so that what people use
        tells which is better; `models` asks the indexes of these models, and fuses what they find by rank: all of it,
        or what each of them found.
        """
        from reshelve.domain.filters import parse_filter
        from reshelve.retrieval.asking import Options
        from reshelve.retrieval.requests import SearchRequest
        from reshelve.retrieval.search import search

        if models and (index is not None or interleave):
            raise InputError("a search asks models, one index, or both sides of a rollout: only one of them")
        return await search(
            self.backends,
            SearchRequest(
                query=query,
                collection=self.settings.collection,
                options=Options(
                    top_k=top_k,
                    offset=offset,
                    scope=Scope(tenant=tenant, filter=parse_filter(filters)),
                    mode=mode,
                    rerank=rerank,
                    exact=exact,
                    min_score=min_score,
                    diversify=diversify,
                    highlight=highlight,
                    explain=explain,
                ),
                user=user,
                session=session,
                index_id=index,
                cursor=cursor,
                interleave=interleave,
                models=tuple(models),
                aggregation=aggregation,
            ),
        )

    async def searchable_models(self, *, tenant: str = "") -> list[SearchableModel]:
        """The models that a search may name: those that have an index in the collection."""
        from reshelve.retrieval.models import searchable_models

        return await searchable_models(self.backends, collection=self.settings.collection, tenant=tenant)

    async def embeddings(self, document_id: str, *, tenant: str = "") -> list[DocumentEmbeddings]:
        """What each index has of a document, by its external id."""
        from reshelve.database import routes
        from reshelve.indexing.refreshing import document_embeddings

        async with self.backends.database.service() as connection:
            route = await routes.get_route(connection, self.settings.collection, tenant)
        return await document_embeddings(self.backends, document_id, collection_id=route.collection_id, tenant=tenant)

    async def update_embeddings(self, document_id: str, *, model: str, tenant: str = "") -> DocumentEmbeddings:
        """Embed a document again, for the index of this model. Raises NoIndexForModel where there is none."""
        from reshelve.database import routes
        from reshelve.indexing.refreshing import refresh_document
        from reshelve.retrieval.models import index_of_model

        async with self.backends.database.service() as connection:
            route = await routes.get_route(connection, self.settings.collection, tenant)
            index = await index_of_model(connection, route, model)
        return await refresh_document(
            self.backends, index, document_id, collection_id=route.collection_id, tenant=tenant
        )

    async def models(self) -> list[dict[str, Any]]:
        """Every registered embedding model."""
        from reshelve.database import catalog

        async with self.backends.database.service() as connection:
            return await catalog.list_models(connection)

    async def evaluate(
        self,
        judged: Judged,
        *,
        index: int | None = None,
        tenant: str = "",
        depth: int = 100,
        mode: Mode | None = None,
        rerank: Rerank | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """nDCG@10, recall@10 and @100, and MRR of the serving index, or of one index, on judged queries.

        `mode` and `rerank` as for `search`.
        """
        from reshelve.evaluation.runs import evaluate
        from reshelve.retrieval.search import search_documents

        async def documents(query: str, wanted: int) -> list[tuple[str, float]]:
            return await search_documents(
                self.backends,
                query,
                collection=self.settings.collection,
                documents=wanted,
                tenant=tenant,
                index_id=index,
                mode=mode,
                rerank=rerank,
            )

        name = f"index {index}" if index is not None else "serving index"
        return await evaluate(name, documents, judged, depth=depth, on_progress=on_progress)

    async def ann_recall(self, *, index: int | None = None) -> float | None:
        """recall@10 of an index's graph (the serving one's) against its exact search. None for an empty index."""
        from reshelve.database import catalog, routes
        from reshelve.migrations.verify import ann_recall

        async with self.backends.database.service() as connection:
            route = await routes.get_route(connection, self.settings.collection)
            wanted = route.serving if index is None else await catalog.get_index(connection, index)
        return await ann_recall(self.backends, wanted)
