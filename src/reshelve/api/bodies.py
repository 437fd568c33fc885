"""What requests bring, and what answers hold. An unknown field is refused, and so is a value of another type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from reshelve.api.problems import NO_NUL, FieldRefused
from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, MAX_ID_BYTES, MAX_TITLE_BYTES, check_metadata
from reshelve.corpus.stored import StoredDocument
from reshelve.domain.filters import parse_filter
from reshelve.domain.styles import Style
from reshelve.errors import DocumentRefused, InputError
from reshelve.migrations.status import IndexStatus
from reshelve.retrieval.asking import MAX_DEPTH
from reshelve.retrieval.models import SearchableModel
from reshelve.retrieval.requests import MAX_QUERY_CHARACTERS

MAX_DOCUMENTS = 1000
MAX_NUMBER = 2**31 - 1
_COLLECTION = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def _at_most(most_bytes: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        size = len(text.encode())
        if size > most_bytes:
            raise ValueError(f"it is {size:,} bytes long; at most {most_bytes:,} can be stored")
        return text

    return check


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _storable(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        check_metadata(metadata, "it")
    except DocumentRefused as refused:
        raise ValueError(refused.message) from None
    return metadata


def _readable(filters: dict[str, Any]) -> dict[str, Any]:
    try:
        parse_filter(filters)
    except InputError as refused:
        # Past the framework, which has no place for the advice.
        raise FieldRefused(refused, field="filters") from None
    return filters


DocumentId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_BYTES, pattern=NO_NUL, examples=["notes/door.md"]),
    AfterValidator(_not_blank),
    AfterValidator(_at_most(MAX_ID_BYTES)),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_storable)]
Filters = Annotated[dict[str, Any], AfterValidator(_readable)]
Name = Annotated[str, Field(max_length=256, pattern=NO_NUL)]
"""Of a tenant, a user or a session."""
CollectionName = Annotated[str, Field(pattern=_COLLECTION)]
ModelName = Annotated[str, Field(min_length=1, max_length=512, pattern=NO_NUL)]
Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, pattern=NO_NUL), AfterValidator(_not_blank)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Params(BaseModel):
    """Of the query string, where every value is a text."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CollectionParams(Params):
    """`collection`: the one that the settings name, if it is not given."""

    collection: CollectionName | None = Field(default=None, examples=["default"])


class TenantParams(CollectionParams):
    """`tenant`: whose documents; those of nobody, if it is not given."""

    tenant: Name = Field(default="", examples=[""])


class WriteParams(TenantParams):
    """`wait`: answer once searches find what was written."""

    wait: bool = Field(default=False, examples=[True])


class UploadParams(WriteParams):
    """`format`: whatever the files' contents and names say."""

    format: Literal["text", "markdown", "jsonl", "csv", "html", "docx", "pdf", "zip", "tar"] | None = Field(
        default=None, examples=["markdown"]
    )


class ListParams(TenantParams):
    """`after`: the `next` of the page before."""

    after: Annotated[str, Field(max_length=MAX_ID_BYTES, pattern=NO_NUL)] = Field(default="", examples=["a"])
    limit: int = Field(default=50, ge=1, le=1000, examples=[10])


class ModelParams(TenantParams):
    """`model`: whose index is meant."""

    model: ModelName = Field(examples=["hashing-64"])


class DocumentContent(Body):
    model_config = ConfigDict(
        validate_default=True,
        json_schema_extra={
            "examples": [
                {"title": "The door", "text": "The key hangs behind the blue pot.", "metadata": {"room": "hall"}}
            ]
        },
    )

    title: Annotated[
        str, Field(max_length=MAX_TITLE_BYTES, pattern=NO_NUL), AfterValidator(_at_most(MAX_TITLE_BYTES))
    ] = ""
    text: Annotated[
        str, Field(max_length=MAX_DOCUMENT_BYTES, pattern=NO_NUL), AfterValidator(_at_most(MAX_DOCUMENT_BYTES))
    ] = ""
    metadata: Metadata = Field(default_factory=dict[str, Any])
    format: Literal["text", "markdown"] = "text"

    @field_validator("text")
    @classmethod
    def _has_content(cls, text: str, info: ValidationInfo) -> str:
        # Where the title itself was refused, it is not in the data.
        if not text.strip() and not info.data.get("title", "title").strip():
            raise ValueError("there is neither a title nor a text")
        return text


class DocumentBody(DocumentContent):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "notes/door.md",
                    "title": "The door",
                    "text": "The key hangs behind the blue pot.",
                    "metadata": {"room": "hall"},
                    "format": "markdown",
                }
            ]
        }
    )

    id: DocumentId


def _one_or_many(body: Any) -> str:
    return "many" if isinstance(body, list) else "one"


DocumentBodies = Annotated[
    Annotated[DocumentBody, Tag("one")]
    | Annotated[list[DocumentBody], Field(min_length=1, max_length=MAX_DOCUMENTS), Tag("many")],
    Discriminator(_one_or_many),
]


class Refused(BaseModel):
    """`line` is the document's place among those that were sent, or in its file."""

    line: int | None
    id: str | None
    reason: str


class Written(BaseModel):
    """What became of the documents."""

    added: int
    updated: int
    unchanged: int
    chunks_added: int
    chunks_removed: int
    refused_count: int
    refused: list[Refused]


class Deleted(BaseModel):
    deleted: int


class DocumentPage(BaseModel):
    """`next` is the `after` of the next page; null on the last one."""

    documents: list[StoredDocument]
    next: str | None


class SearchBody(Body):
    """`user`, `session` and `tenant` keep who asks on one side of a rollout.

    `filters` says which documents may be found, by their metadata.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "where is the key?"},
                {"query": "where is the key?", "top_k": 3, "filters": {"room": "hall"}, "user": "ada", "session": "s1"},
                {"query": "where is the key?", "filters": {"year": {"$gte": 2020}, "tags": {"$in": ["door", "key"]}}},
                {"query": "where is the key?", "interleave": True},
                {"query": "where is the key?", "mode": "lexical", "offset": 10, "highlight": True, "explain": True},
                {"query": "where is the key?", "min_score": 0.2, "diversify": True},
                {"query": "where is the key?", "rerank": "late_interaction", "explain": True},
                {"query": "where is the key?", "models": ["hashing-64"], "aggregation": "intersection"},
            ]
        }
    )

    query: Query
    top_k: int = Field(default=10, ge=1, le=MAX_DEPTH)
    filters: Filters | None = None
    tenant: Name = ""
    user: Name | None = None
    session: Name | None = None
    collection: CollectionName | None = None
    index: int | None = Field(default=None, ge=1, le=MAX_NUMBER, description="This index, instead of the route's.")
    interleave: bool = Field(default=False, description="Results of both sides of a rollout, drafted in turns.")
    model: ModelName | None = Field(default=None, description="The index of this model, instead of the route's.")
    models: list[ModelName] | None = Field(
        default=None, min_length=1, max_length=8, description="The indexes of these models, fused by rank."
    )
    aggregation: Literal["union", "intersection"] = "union"
    mode: Literal["dense", "lexical", "hybrid"] | None = Field(
        default=None, description="By meaning, by words, or both; else what rag.search.mode says."
    )
    rerank: Literal["none", "late_interaction", "cross_encoder"] | None = Field(
        default=None, description="How the best are put in a better order; else what rag.search.rerank says."
    )
    offset: int = Field(default=0, ge=0, lt=MAX_DEPTH, description="Where the page begins.")
    cursor: str | None = Field(default=None, max_length=200, description="The `next` of the page before.")
    min_score: float | None = Field(default=None, description="Leave out what scores less.", allow_inf_nan=False)
    diversify: bool = Field(default=False, description="The best chunk of each document first.")
    highlight: bool = Field(default=False, description="Find the query's words in each chunk.")
    explain: bool = Field(default=False, description="Say which leg of the search had a chunk where.")

    @model_validator(mode="after")
    def _asks_one_thing(self) -> SearchBody:
        given = ("index", self.index), ("model", self.model), ("models", self.models), ("interleave", self.interleave)
        asked = [name for name, value in given if value not in (None, False)]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} do not go together: give one of them")
        return self


class QueryBody(Body):
    """`style` and `summary`: by the wording of the question, if they are not given. `stream`: Server-Sent Events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "where is the key?"},
                {"query": "where is the key?", "style": "detailed", "top_k": 3, "user": "ada", "session": "s1"},
                {"query": "summarize what is known of the key", "stream": True},
            ]
        }
    )

    query: Query
    top_k: int | None = Field(default=None, ge=1, le=100, description="Passages; else rag.answering.top_k.")
    style: Style | None = None
    summary: bool | None = None
    stream: bool = False
    filters: Filters | None = None
    tenant: Name = ""
    user: Name | None = None
    session: Name | None = None
    collection: CollectionName | None = None
    model: ModelName | None = Field(default=None, description="The index of this model, instead of the route's.")


class ModelAnswer(BaseModel):
    model: str
    provider: str
    dimension: int
    fingerprint: str
    price_per_million_tokens: float
    indexes: int


class Models(BaseModel):
    models: list[ModelAnswer]


class SearchableModels(BaseModel):
    models: list[SearchableModel]


class EmbeddingsOfModel(BaseModel):
    """What one index has of a document: `embedded` of its `chunks`."""

    index: int
    model: str
    dimension: int
    state: str
    chunks: int
    embedded: int
    complete: bool


class EmbeddingsAnswer(BaseModel):
    document_id: str
    embeddings: list[EmbeddingsOfModel]


class Collections(BaseModel):
    collections: list[str]


class Indexes(BaseModel):
    indexes: list[IndexStatus]
