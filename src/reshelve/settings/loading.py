"""Settings: one file, `rag.toml`, read once, strict and frozen. An unknown key is refused with the nearest name."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, SecretStr, ValidationError

from reshelve.errors import SettingsError
from reshelve.settings.sections import Settings

FLAGS = {
    "FF_ENABLE_GRADUAL_MIGRATION": ("rollout", "enabled"),
    "FF_NEW_EMBEDDINGS_PERCENTAGE": ("rollout", "percentage"),
    "FF_USE_PARALLEL_RAG": ("rollout", "parallel"),
    "FF_ENABLE_PERFORMANCE_LOGGING": ("monitoring", "performance_logging"),
    "FF_ENABLE_QUERY_ANALYTICS": ("monitoring", "query_analytics"),
}
"""Variables that go over the file."""
_NUMBERS = {
    "RAG_CONTEXT_LIMIT": ("chat", "context_limit"),
    "SUMMARY_MAX_TOP_K": ("answering", "summary_max_top_k"),
    "STYLE_MINIMAL_MAX_WORDS": ("answering", "style_minimal_max_words"),
    "STYLE_CONCISE_MAX_WORDS": ("answering", "style_concise_max_words"),
    "STYLE_DETAILED_MAX_WORDS": ("answering", "style_detailed_max_words"),
    "CSV_CHUNK_TOKENS": ("chunking", "csv_chunk_tokens"),
    "CSV_CHUNK_MAX_TOKENS": ("chunking", "csv_chunk_max_tokens"),
    "PDF_CHUNK_TOKENS": ("chunking", "pdf_chunk_tokens"),
    "PDF_CHUNK_MAX_TOKENS": ("chunking", "pdf_chunk_max_tokens"),
}
_SWITCHES = {"ENABLE_LOCAL_ROUTING": ("answering", "local_routing")}
_TEXTS = (
    ("RESHELVE_DATABASE_URL", "database", "url"),
    ("ALERT_WEBHOOK_SECRET", "alerts", "webhook_secret"),
)
_WORDS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read `path`, else the file that `RESHELVE_CONFIG` names, else `./rag.toml` if it is there, else the defaults.

    `RESHELVE_DATABASE_URL`, `ALERT_WEBHOOK_SECRET`, the `FF_…` flags, `_NUMBERS` and `_SWITCHES` go over the file.
    `OPENAI_API_KEY` is used where no `api_key` is given.
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
    values, sources = _overlaid(values, source=source)
    try:
        settings = Settings.model_validate(_secrets_wrapped(values))
    except ValidationError as error:
        raise _explained(error, text, source) from None
    settings = _rooted(settings, source.resolve().parent)
    settings.remember_sources(sources)
    return settings


def _overlaid(values: dict[str, Any], *, source: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the environment says goes over the file; and where each setting came from."""
    sources = {f"{table}.{key}": str(source) for table, content in values.items() for key in _table(content)}
    overlay: list[tuple[str, str, str, Any]] = []
    for variable, (table, key) in FLAGS.items():
        if given := os.environ.get(variable, "").strip():
            overlay.append((variable, table, key, _flag(variable, given)))
    for variable, (table, key) in _NUMBERS.items():
        if given := os.environ.get(variable, "").strip():
            overlay.append((variable, table, key, _whole_number(variable, given)))
    for variable, (table, key) in _SWITCHES.items():
        if given := os.environ.get(variable, "").strip():
            overlay.append((variable, table, key, _switch(variable, given)))
    for variable, table, key in _TEXTS:
        if given := os.environ.get(variable):
            overlay.append((variable, table, key, given))
    for variable, table, key, value in overlay:
        content: Any = values.get(table, {})
        if isinstance(content, dict):  # what else it may be, the validation refuses
            values = {**values, table: {**cast("dict[str, Any]", content), key: value}}
            sources[f"{table}.{key}"] = variable
    return values, sources


def _flag(variable: str, given: str) -> bool | float:
    if FLAGS[variable][1] == "percentage":
        try:
            percentage = float(given)
        except ValueError:
            percentage = -1.0
        if not 0 <= percentage <= 100:
            raise SettingsError(f"{variable} is {given!r}", advice="Give a number from 0 to 100.")
        return percentage
    return _switch(variable, given)


def _switch(variable: str, given: str) -> bool:
    if given.lower() not in _WORDS:
        raise SettingsError(f"{variable} is {given!r}", advice="Give true or false.")
    return _WORDS[given.lower()]


def _whole_number(variable: str, given: str) -> int:
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise SettingsError(f"{variable} is {given!r}", advice="Give a whole number, 1 or more.")
    return int(given)


_SECRETS = (
    ("database", "url"),
    ("database", "service_url"),
    ("embedding", "api_key"),
    ("answering", "api_key"),
    ("alerts", "webhook_secret"),
    ("alerts", "url_secret"),
)


def _secrets_wrapped(values: dict[str, Any]) -> dict[str, Any]:
    """Strict mode takes no plain string for a secret."""
    wrapped = dict(values)
    for section, key in _SECRETS:
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
    update: dict[str, Any] = {"database": settings.database.model_copy(update={"directory": directory})}
    if settings.rollout.judged_queries is not None:
        judged = str(root / Path(settings.rollout.judged_queries).expanduser())
        update["rollout"] = settings.rollout.model_copy(update={"judged_queries": judged})
    return settings.model_copy(update=update)


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
