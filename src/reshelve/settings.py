"""Settings: one file, `rag.toml`, read once, strict and frozen. An unknown key is refused with the nearest name."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from reshelve.errors import SettingsError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DatabaseSettings(_Section):
    """Where PostgreSQL is. Without a `url`, an embedded server under `directory`.

    `url` is the role that owns the schema. `service_url`, if given, is a login that is a member of `reshelve_service`:
    searches and writes go through it.
    """

    url: SecretStr | None = None
    service_url: SecretStr | None = None
    directory: str = ".reshelve"
    pool_size: int = Field(default=8, ge=2, le=200)


class HnswSettings(_Section):
    """An index under `min_rows` rows is searched exactly until a migration builds its graph."""

    min_rows: int = Field(default=10_000, ge=1)
    m: int = Field(default=16, ge=2, le=100)
    ef_construction: int = Field(default=64, ge=4, le=1000)
    ef_search: int = Field(default=100, ge=1, le=1000)

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


class ChunkingSettings(_Section):
    """Sizes in tokens of the model's own tokenizer."""

    strategy: Literal["semantic"] = "semantic"
    chunk_size: int = Field(default=200, ge=8)
    max_chunk_size: int = Field(default=250, ge=8)
    overlap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _sizes_fit(self) -> ChunkingSettings:
        if self.max_chunk_size < self.chunk_size:
            raise ValueError("max_chunk_size must not be smaller than chunk_size")
        if self.overlap >= self.chunk_size:
            raise ValueError("overlap must be smaller than chunk_size")
        return self


class MigrationSettings(_Section):
    """`soak_hours` keeps the way back open before `completed`; the gates are the least that a verification accepts."""

    soak_hours: float = Field(default=48.0, ge=0)
    range_rows: int = Field(default=1000, ge=10, le=20_000)
    workers: int = Field(default=2, ge=1, le=32)
    lease_seconds: float = Field(default=15.0, ge=0.5, le=3600)
    sample_rows: int = Field(default=32, ge=1, le=10_000)
    min_sample_cosine: float = Field(default=0.99, gt=0, le=1)
    min_ann_recall: float = Field(default=0.95, ge=0, le=1)


class Settings(_Section):
    """The `[rag]` table of `rag.toml`."""

    collection: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    database: DatabaseSettings = DatabaseSettings()
    vector_storage: VectorStorageSettings = VectorStorageSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    chunking: ChunkingSettings = ChunkingSettings()
    migration: MigrationSettings = MigrationSettings()


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read `path`, else the file that `RESHELVE_CONFIG` names, else `./rag.toml` if it is there, else the defaults.

    `RESHELVE_DATABASE_URL` goes over the file's `database.url`. `OPENAI_API_KEY` is used where no `api_key` is given.
    A relative `database.directory` is taken from the file's folder. Raises SettingsError.
    """
    named = path if path is not None else os.environ.get("RESHELVE_CONFIG")
    file = Path(named) if named is not None else Path("rag.toml")
    text = ""
    if file.is_file():
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from error
    elif named is not None:
        advice = "Name a settings file, or run without one for the defaults."
        raise SettingsError(f"{file} does not exist", advice=advice)
    return parse_settings(text, source=file)


def parse_settings(text: str, *, source: Path) -> Settings:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source} is not valid TOML: {error}") from error
    unknown = sorted(set(document) - {"rag"})
    if unknown:
        raise SettingsError(
            f"{source}, line {_line_of(text, unknown[0])}: unknown table [{unknown[0]}]",
            advice="Every setting stands under [rag], for example [rag.embedding].",
        )
    values: Any = document.get("rag", {})
    if not isinstance(values, dict):
        raise SettingsError(f"{source}, line {_line_of(text, 'rag')}: rag must be a table: [rag]")
    values = cast("dict[str, Any]", values)
    url = os.environ.get("RESHELVE_DATABASE_URL")
    database: Any = values.get("database", {})
    if url and isinstance(database, dict):
        values = {**values, "database": {**cast("dict[str, Any]", database), "url": url}}
    try:
        settings = Settings.model_validate(_secrets_wrapped(values))
    except ValidationError as error:
        raise _explained(error, text, source) from None
    return _rooted(settings, source.resolve().parent)


def _secrets_wrapped(values: dict[str, Any]) -> dict[str, Any]:
    """Strict mode takes no plain string for a secret."""
    wrapped = dict(values)
    for section, key in (("database", "url"), ("database", "service_url"), ("embedding", "api_key")):
        table = _table(wrapped.get(section))
        if isinstance(table.get(key), str):
            wrapped[section] = {**table, key: SecretStr(table[key])}
    keys = _table(_table(wrapped.get("embedding")).get("endpoint_keys"))
    if keys:
        secrets = {url: SecretStr(key) if isinstance(key, str) else key for url, key in keys.items()}
        wrapped["embedding"] = {**wrapped["embedding"], "endpoint_keys": secrets}
    return wrapped


def _table(value: Any) -> dict[str, Any]:
    """The value, if it is a table; what else it may be, the validation refuses."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _rooted(settings: Settings, root: Path) -> Settings:
    directory = str(root / Path(settings.database.directory).expanduser())
    return settings.model_copy(update={"database": settings.database.model_copy(update={"directory": directory})})


def _explained(error: ValidationError, text: str, source: Path) -> SettingsError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    key = place[-1]
    name = ".".join(["rag", *place])
    where = f"{source}, line {_line_of(text, key)}" if _line_of(text, key) else str(source)
    if first["type"] != "extra_forbidden":
        reason = first["msg"].removeprefix("Value error, ")
        return SettingsError(f"{where}: {name}: {reason}")
    near = difflib.get_close_matches(key, _known_keys(place[:-1]), n=1, cutoff=0.5)
    elsewhere = [".".join(["rag", *found]) for found in _all_keys() if found[-1] == key]
    if elsewhere:
        advice = f"Did you mean {elsewhere[0]}?"
    elif near:
        advice = f"Did you mean {'.'.join(['rag', *place[:-1], near[0]])}?"
    else:
        advice = f"Known here: {', '.join(_known_keys(place[:-1]))}."
    return SettingsError(f"{where}: unknown setting {name}", advice=advice)


def _section_at(place: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Settings
    for part in place:
        annotation = section.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return section


def _known_keys(place: list[str]) -> list[str]:
    return sorted(_section_at(place).model_fields)


def _all_keys(place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, field in _section_at(list(place)).model_fields.items():
        found.append((*place, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found.extend(_all_keys((*place, name)))
    return found


def _line_of(text: str, key: str) -> int:
    """The first line that sets `key` or opens its table; 0 when it came from elsewhere."""
    pattern = re.compile(rf"^\s*(\[[^\]]*\b)?[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 0)
