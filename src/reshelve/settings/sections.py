"""The tables of `rag.toml`, one class each: names, types, defaults and limits."""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from reshelve.settings.schedule import Step, parse_schedule


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatabaseSettings(_Section):
    """Where PostgreSQL is. Without a `url`, an embedded server under `directory`.

    `url` is the role that owns the schema. `service_url`, if given, is a login that is a member of `reshelve_service`:
    searches and writes go through it. A process that stands still for `idle_in_transaction_seconds` in the middle of a
    transaction is cut off by the server, and what it held is free.
    """

    url: SecretStr | None = None
    service_url: SecretStr | None = None
    directory: str = ".reshelve"
    pool_size: int = Field(default=8, ge=2, le=200)
    idle_in_transaction_seconds: float = Field(default=60.0, ge=1.0, le=86_400)


class HnswSettings(_Section):
    """An index under `min_rows` rows is searched exactly until a migration builds its graph."""

    min_rows: int = Field(default=10_000, ge=1)
    m: int = Field(default=16, ge=2, le=100)
    ef_construction: int = Field(default=64, ge=4, le=1000)
    ef_search: int = Field(default=200, ge=1, le=1000)

    @model_validator(mode="after")
    def _graph_is_buildable(self) -> HnswSettings:
        if self.ef_construction < 2 * self.m:
            raise ValueError(f"ef_construction must be at least twice m ({2 * self.m})")
        return self


class VectorStorageSettings(_Section):
    """`mock` keeps the vectors of one process in memory and searches exactly: for development and tests."""

    backend: Literal["pgvector", "mock"] = "pgvector"
    dimensions: int | None = Field(default=None, ge=1, le=4000)
    metric: Literal["cosine", "l2", "inner_product"] = "cosine"
    hnsw: HnswSettings = HnswSettings()


class EmbeddingSettings(_Section):
    """The model that the collection should have, and how to talk to its provider.

    `model` is `minilm-l6-v2`, `hashing-<dimension>`, a directory or Hugging Face name of a BERT-family model in
    sentence-transformers layout, or, with `provider = "openai"`, whatever the endpoint calls it. `api_key` goes to
    that endpoint alone; `endpoint_keys` names the keys of others, by base URL, whose models older indexes still use.
    The vectors of the last `cache_size` queries are kept for `cache_ttl_seconds`, unless `cache_enabled` is off.
    """

    model: str = "minilm-l6-v2"
    provider: Literal["auto", "bert", "hashing", "openai"] = "auto"
    base_url: str | None = None
    api_key: SecretStr | None = None
    endpoint_keys: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    query_prefix: str | None = None
    document_prefix: str | None = None
    price_per_million_tokens: float | None = Field(default=None, ge=0)
    batch_size: int = Field(default=64, ge=1, le=2048)
    batch_tokens: int = Field(default=250_000, ge=256)
    concurrency: int = Field(default=4, ge=1, le=64)
    timeout_seconds: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=6, ge=0, le=50)
    cache_enabled: bool = True
    cache_size: int = Field(default=1000, ge=1)
    cache_ttl_seconds: float = Field(default=3600.0, gt=0)


class ChunkingSettings(_Section):
    """Sizes in tokens of the model's own tokenizer. Tables and PDF may have sizes of their own.

    A piece under `min_chunk_size` is put to its neighbour where both fit into one chunk.
    """

    strategy: Literal["semantic", "sentence", "sliding_window"] = "semantic"
    chunk_size: int = Field(default=200, ge=8)
    max_chunk_size: int = Field(default=250, ge=8)
    min_chunk_size: int = Field(default=0, ge=0)
    overlap: int = Field(default=0, ge=0)
    csv_chunk_tokens: int | None = Field(default=None, ge=8)
    csv_chunk_max_tokens: int | None = Field(default=None, ge=8)
    pdf_chunk_tokens: int | None = Field(default=None, ge=8)
    pdf_chunk_max_tokens: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _sizes_fit(self) -> ChunkingSettings:
        if self.max_chunk_size < self.chunk_size:
            raise ValueError("max_chunk_size must not be smaller than chunk_size")
        if self.overlap >= self.chunk_size:
            raise ValueError("overlap must be smaller than chunk_size")
        if self.min_chunk_size > self.chunk_size:
            raise ValueError("min_chunk_size must not be larger than chunk_size")
        for kind, wanted, most in (
            ("csv", self.csv_chunk_tokens, self.csv_chunk_max_tokens),
            ("pdf", self.pdf_chunk_tokens, self.pdf_chunk_max_tokens),
        ):
            if wanted is not None and wanted > (self.max_chunk_size if most is None else most):
                raise ValueError(f"{kind}_chunk_max_tokens must not be smaller than {kind}_chunk_tokens")
        return self


LANGUAGES = (
    "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "finnish", "french", "german", "greek",
    "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian", "portuguese",
    "romanian", "russian", "serbian", "spanish", "swedish", "tamil", "turkish", "yiddish", "simple", "none",
)  # fmt: skip
"""Those whose stems and stop words PostgreSQL 16 knows; `simple` has neither, `none` is no search by words."""


class SearchSettings(_Section):
    """What a search does that does not say otherwise.

    `language` is that of the words: a change of it is a migration that embeds nothing. `mode` is `dense` (by meaning),
    `lexical` (by words, BM25 with `bm25_k1` and `bm25_b`) or `hybrid`: the best `candidates` of both, their scores each
    normalised to [0, 1] and added up, `dense_weight` of the dense one (`fusion = "convex"`), or fused by rank (`rrf`).

    `rerank` puts the best `rerank_candidates` in a new order, in which the closer look has `rerank_weight`:
    `late_interaction` compares token with token (the tokens of the index's own model, else of the built-in one, or of
    the FastEmbed model that `late_interaction_model` names), `cross_encoder` is FastEmbed's `cross_encoder_model`.
    With `late_interaction` the token vectors of the passages are stored beside the index, which a migration changes.
    """

    mode: Literal["dense", "lexical", "hybrid"] = "hybrid"
    language: str = "english"
    fusion: Literal["convex", "rrf"] = "convex"
    dense_weight: float = Field(default=0.5, ge=0, le=1)
    candidates: int = Field(default=100, ge=10, le=1000)
    bm25_k1: float = Field(default=1.2, ge=0, le=10)
    bm25_b: float = Field(default=0.75, ge=0, le=1)
    rerank: Literal["none", "late_interaction", "cross_encoder"] = "none"
    rerank_candidates: int = Field(default=30, ge=2, le=200)
    rerank_weight: float = Field(default=0.5, gt=0, le=1)
    late_interaction: bool = False
    late_interaction_model: str | None = Field(default=None, min_length=1)
    cross_encoder_model: str = Field(default="Xenova/ms-marco-MiniLM-L-6-v2", min_length=1)

    @field_validator("language")
    @classmethod
    def _language_is_known(cls, value: str) -> str:
        if value not in LANGUAGES:
            near = difflib.get_close_matches(value, LANGUAGES, n=1)
            raise ValueError(f"{value!r} is unknown; " + (f"did you mean {near[0]}?" if near else ", ".join(LANGUAGES)))
        return value


class CacheSettings(_Section):
    """The answers of the last `search_cache_size` searches are kept for `search_cache_ttl_seconds`, until a change."""

    search_cache_enabled: bool = False
    search_cache_size: int = Field(default=1000, ge=1)
    search_cache_ttl_seconds: float = Field(default=300.0, gt=0)


class ReadingSettings(_Section):
    """How files are read, and the limits of the child process that reads PDF, Word, HTML, tables and archives.

    A file may take `timeout_seconds` of the clock and of the processor, and `memory_mb` of address space. An archive
    may have `archive_entries`, unpack to `archive_mb`, and grow `archive_ratio` times.
    """

    timeout_seconds: float = Field(default=60.0, gt=0)
    memory_mb: int = Field(default=1024, ge=256)
    archive_entries: int = Field(default=10_000, ge=1)
    archive_mb: int = Field(default=1024, ge=1)
    archive_ratio: int = Field(default=200, ge=1)
    csv_rows: int = Field(default=1, ge=1, le=10_000)


class ThrottleSettings(_Section):
    """When the backfill makes room for searches.

    `max_p95_ratio`: it slows down while the searches' p95 is above so many times what it was before the backfill.
    `max_database_load`: and while more queries than so many times the database's cores run at once.
    """

    enabled: bool = True
    max_p95_ratio: float = Field(default=1.3, gt=1)
    max_database_load: float = Field(default=2.0, gt=0)


class MigrationSettings(_Section):
    """`soak_hours` keeps the way back open before `completed`; the gates are the least that a verification accepts."""

    soak_hours: float = Field(default=48.0, ge=0)
    range_rows: int = Field(default=1000, ge=10, le=20_000)
    workers: int = Field(default=2, ge=1, le=32)
    lease_seconds: float = Field(default=15.0, ge=0.5, le=3600)
    sample_rows: int = Field(default=32, ge=1, le=10_000)
    min_sample_cosine: float = Field(default=0.99, gt=0, le=1)
    min_ann_recall: float = Field(default=0.95, ge=0, le=1)
    throttle: ThrottleSettings = ThrottleSettings()


class RolloutSettings(_Section):
    """How searches move to the new index, and the evidence that each step needs.

    `schedule` is shares and how long each is held: "10%:72h, 25%:72h, 50%:72h, 75%:72h, 100%:48h" (d, h, m, s).
    Without one, people take the steps. `sticky_by` says what stays on one side: a user, a session, or a tenant.
    `enabled` and `percentage` go over what the migration says, in the processes that read them: off, every search goes
    to the old index. `shadow_sample` of the live searches also run on the other index, off the request's path;
    `parallel` is all of them. A candidate that has not answered within `candidate_timeout_seconds` has failed that
    search, and the serving index answers it.

    The gates: `max_error_rate` (share of searches), `max_p95_ms`, `max_p95_ratio` (against the serving side, where
    the candidate's p95 is above `p95_floor_ms`), `max_lag_seconds` (of the candidate index), `max_quality_loss`
    (nDCG@10, on `judged_queries`, a folder), `min_overlap` (of the first ten documents of both sides),
    `max_cost_ratio` (spent against planned), `min_similarity` (off by default: cosines of two models do not compare).
    A gate with fewer than `min_requests` searches, or `min_shadowed` compared ones, holds. Without judged queries the
    quality is not proven, and the schedule waits for a person, unless `require_judged` is off.
    """

    enabled: bool = True
    percentage: float | None = Field(default=None, ge=0, le=100)
    parallel: bool = False
    schedule: str = ""
    sticky_by: Literal["user", "session", "tenant"] = "user"
    shadow_seconds: float = Field(default=600.0, ge=0)
    shadow_sample: float = Field(default=0.1, ge=0, le=1)
    shadow_queue: int = Field(default=32, ge=1, le=10_000)
    candidate_timeout_seconds: float = Field(default=2.0, gt=0)
    check_seconds: float = Field(default=2.0, gt=0, le=5)
    min_requests: int = Field(default=200, ge=1)
    min_shadowed: int = Field(default=100, ge=0)
    max_error_rate: float = Field(default=0.001, gt=0, lt=1)
    max_p95_ms: float = Field(default=800.0, gt=0)
    max_p95_ratio: float = Field(default=1.5, gt=0)
    p95_floor_ms: float = Field(default=200.0, ge=0)
    max_lag_seconds: float = Field(default=60.0, gt=0)
    judged_queries: str | None = None
    require_judged: bool = True
    max_quality_loss: float = Field(default=0.02, gt=0, lt=1)
    min_overlap: float = Field(default=0.1, ge=0, le=1)
    max_cost_ratio: float = Field(default=1.2, gt=0)
    min_similarity: float | None = Field(default=None, ge=-1, le=1)

    @field_validator("schedule")
    @classmethod
    def _schedule_is_readable(cls, value: str) -> str:
        parse_schedule(value)
        return value

    @property
    def steps(self) -> tuple[Step, ...]:
        return parse_schedule(self.schedule)


class AnsweringSettings(_Section):
    """How questions are answered: which language model is asked, from how many passages, in how many words.

    `provider` "auto" asks the endpoint of `base_url`, else Gemini's where there is a GEMINI_API_KEY, else OpenAI's
    where there is an `api_key` or an OPENAI_API_KEY; without any of them, or with "none", answers are the best
    sentences of the passages. `temperature` is sent only if given: not every model takes one. `style` "auto" is chosen
    from the question's wording. `min_support` is the share of the question's words, by their weight, that one passage
    must hold for an answer without a language model.
    """

    provider: Literal["auto", "none"] = "auto"
    base_url: str | None = None
    model: str | None = None
    api_key: SecretStr | None = None
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=2, ge=0, le=50)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int = Field(default=6, ge=1, le=100)
    style: Literal["auto", "minimal", "concise", "detailed"] = "auto"
    style_minimal_max_words: int = Field(default=25, ge=1)
    style_concise_max_words: int = Field(default=60, ge=1)
    style_detailed_max_words: int = Field(default=180, ge=1)
    summary_max_top_k: int = Field(default=30, ge=1, le=1000)
    local_routing: bool = True
    min_support: float = Field(default=0.4, ge=0, le=1)


class ChatSettings(_Section):
    """Chats with a memory. Messages are documents of `collection`, which is migrated as any other.

    `context_limit` earlier messages of the same user, those nearest to a new one, are shown to the language model, each
    with its neighbours, beside the last `history_messages` of the session. What is older than `ttl_hours` is deleted.
    """

    collection: str = Field(default="chat", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    context_limit: int = Field(default=5, ge=0, le=100)
    history_messages: int = Field(default=10, ge=0, le=1000)
    ttl_hours: float | None = Field(default=None, gt=0)


class CircuitBreakerSettings(_Section):
    """After `failures` in a row the candidate is left alone for `open_seconds`; then `trials` searches must succeed."""

    failures: int = Field(default=5, ge=1)
    open_seconds: float = Field(default=60.0, gt=0)
    trials: int = Field(default=3, ge=1)


class ServerSettings(_Section):
    """`reshelve serve`. It stops in two steps: `/ready` answers 503 for `drain_seconds`, then requests are finished.

    What is still under way after `stop_seconds` more is cut off.
    `query_window_ms`: queries that come while another is being embedded wait for so long, to be embedded together.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    max_body_kb: int = Field(default=16_384, ge=1)
    drain_seconds: float = Field(default=0.0, ge=0)
    stop_seconds: float = Field(default=30.0, gt=0)
    query_window_ms: float = Field(default=3.0, ge=0)


class MonitoringSettings(_Section):
    """`performance_logging` logs every search with its times; `query_analytics` keeps the queries, for `compare`."""

    performance_logging: bool = False
    query_analytics: bool = False
    retention_days: float = Field(default=8.0, gt=0)


class AlertSettings(_Section):
    """`webhook_secret` is what `POST /api/alerts/webhook` asks for; `url` is where our own alerts are sent to."""

    webhook_secret: SecretStr | None = None
    url: str | None = None
    url_secret: SecretStr | None = None


class Settings(_Section):
    """The `[rag]` table of `rag.toml`."""

    collection: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    database: DatabaseSettings = DatabaseSettings()
    vector_storage: VectorStorageSettings = VectorStorageSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    reading: ReadingSettings = ReadingSettings()
    chunking: ChunkingSettings = ChunkingSettings()
    search: SearchSettings = SearchSettings()
    cache: CacheSettings = CacheSettings()
    migration: MigrationSettings = MigrationSettings()
    rollout: RolloutSettings = RolloutSettings()
    answering: AnsweringSettings = AnsweringSettings()
    chat: ChatSettings = ChatSettings()
    circuit_breaker: CircuitBreakerSettings = CircuitBreakerSettings()
    server: ServerSettings = ServerSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    alerts: AlertSettings = AlertSettings()
    _sources: dict[str, str] = PrivateAttr(default_factory=dict[str, str])

    def source(self, setting: str) -> str:
        """Where the value of a setting ("rollout.percentage") came from: "default", a file, or a variable's name."""
        return self._sources.get(setting, "default")

    def remember_sources(self, sources: dict[str, str]) -> None:
        self._sources.update(sources)
