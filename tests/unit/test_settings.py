"""rag.toml: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from reshelve.embedders.openai import OPENAI_URL, key_for
from reshelve.errors import SettingsError
from reshelve.settings import FLAGS, Settings, Step, load_settings, parse_schedule, parse_settings

FILE = Path("/somewhere/rag.toml")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RESHELVE_CONFIG", "RESHELVE_DATABASE_URL", "OPENAI_API_KEY", "ALERT_WEBHOOK_SECRET", *FLAGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, source=FILE)
    return caught.value


def every_setting(section: type[BaseModel] = Settings, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += every_setting(field.annotation, (*place, name))
        else:
            found.append((*place, name))
    return found


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.embedding == Settings().embedding
    assert settings.database.directory == str(tmp_path / ".reshelve")


def test_the_file_is_read_from_the_place_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, collection in (("rag.toml", "here"), ("other.toml", "by-variable"), ("third.toml", "by-argument")):
        (tmp_path / name).write_text(f'[rag]\ncollection = "{collection}"\n')
    assert load_settings().collection == "here"
    monkeypatch.setenv("RESHELVE_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().collection == "by-variable"
    assert load_settings(tmp_path / "third.toml").collection == "by-argument"


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "rga.toml")


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rag.toml").write_bytes(b"\xff\xfe[rag]")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()


def test_the_directory_is_taken_from_the_folder_of_the_file() -> None:
    assert parse_settings("", source=FILE).database.directory == "/somewhere/.reshelve"
    absolute = '[rag.database]\ndirectory = "/var/lib/reshelve"'
    assert parse_settings(absolute, source=FILE).database.directory == "/var/lib/reshelve"


def test_the_environment_goes_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHELVE_DATABASE_URL", "postgresql://env/x")
    settings = parse_settings('[rag.database]\nurl = "postgresql://file/x"\npool_size = 5', source=FILE)
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql://env/x"
    assert settings.database.pool_size == 5


def test_sizes_of_chunks_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"CSV_CHUNK_TOKENS": 150, "CSV_CHUNK_MAX_TOKENS": 240, "PDF_CHUNK_TOKENS": 140, "PDF_CHUNK_MAX_TOKENS": 230}
    for variable, size in sizes.items():
        monkeypatch.setenv(variable, f" {size} ")
    settings = parse_settings("[rag.chunking]\ncsv_chunk_tokens = 99", source=FILE)
    assert {name: getattr(settings.chunking, name.lower()) for name in sizes} == sizes
    assert settings.source("chunking.csv_chunk_tokens") == "CSV_CHUNK_TOKENS"


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("CSV_CHUNK_TOKENS", "many", "Give a whole number, 1 or more."),
        ("FF_NEW_EMBEDDINGS_PERCENTAGE", "half", "Give a number from 0 to 100."),
        ("FF_NEW_EMBEDDINGS_PERCENTAGE", "101", "Give a number from 0 to 100."),
        ("FF_NEW_EMBEDDINGS_PERCENTAGE", "nan", "Give a number from 0 to 100."),
        ("FF_ENABLE_GRADUAL_MIGRATION", "maybe", "Give true or false."),
        ("FF_USE_PARALLEL_RAG", "2", "Give true or false."),
        ("FF_ENABLE_PERFORMANCE_LOGGING", "ja", "Give true or false."),
        ("FF_ENABLE_QUERY_ANALYTICS", "-1", "Give true or false."),
    ],
)
def test_a_wrong_flag_is_refused_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(variable, value)
    refused = refusal("")
    assert (refused.message, refused.advice) == (f"{variable} is {value!r}", advice)


def test_a_flag_goes_over_the_file_and_an_empty_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[rag.rollout]\npercentage = 25.0\nenabled = false\n[rag.monitoring]\nperformance_logging = true"
    monkeypatch.setenv("FF_NEW_EMBEDDINGS_PERCENTAGE", " 0 ")
    monkeypatch.setenv("FF_ENABLE_GRADUAL_MIGRATION", "")
    monkeypatch.setenv("FF_ENABLE_PERFORMANCE_LOGGING", "FALSE")
    settings = parse_settings(text, source=FILE)
    assert (settings.rollout.percentage, settings.rollout.enabled) == (0.0, False)
    assert settings.monitoring.performance_logging is False
    assert settings.source("rollout.percentage") == "FF_NEW_EMBEDDINGS_PERCENTAGE"
    assert settings.source("rollout.enabled") == str(FILE)
    assert settings.source("rollout.parallel") == "default"
    # Where a table is no table, that is what is wrong.
    assert "rag.rollout" in refusal("[rag]\nrollout = 3").message


def test_the_lengths_of_answers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SUMMARY_MAX_TOP_K": "20", "STYLE_MINIMAL_MAX_WORDS": "11", "STYLE_CONCISE_MAX_WORDS": "50"}
    given |= {"STYLE_DETAILED_MAX_WORDS": "150", "ENABLE_LOCAL_ROUTING": "0"}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    answering = load_settings().answering
    assert (answering.summary_max_top_k, answering.local_routing) == (20, False)
    words = (answering.style_minimal_max_words, answering.style_concise_max_words, answering.style_detailed_max_words)
    assert words == (11, 50, 150)
    assert load_settings().source("answering.summary_max_top_k") == "SUMMARY_MAX_TOP_K"
    for wrong in ("0", "many", "-3"):
        monkeypatch.setenv("SUMMARY_MAX_TOP_K", wrong)
        with pytest.raises(SettingsError, match="SUMMARY_MAX_TOP_K") as refused:
            load_settings()
        assert "whole number" in refused.value.advice


def test_the_schedule_is_read() -> None:
    hour, day = 3600.0, 86_400.0
    assert parse_schedule("10%:72h, 25 % : 1.5d,50%:30m,75%:0s, 100%:48h") == (
        Step(10.0, 72 * hour),
        Step(25.0, 1.5 * day),
        Step(50.0, 0.5 * hour),
        Step(75.0, 0.0),
        Step(100.0, 48 * hour),
    )
    assert parse_schedule("0.0001%:1s,100%:1s")[0].percent == 0.0001
    assert parse_schedule(" ") == ()
    settings = parse_settings('[rag.rollout]\nschedule = "50%:1h, 100%:2h"', source=FILE)
    assert [step.percent for step in settings.rollout.steps] == [50.0, 100.0]


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("10%", "'10%' is not a step: write a share and how long it is held, like 10%:72h"),
        ("10:72h, 100%:1h", "'10:72h' is not a step"),
        ("10%:72, 100%:1h", "'10%:72' is not a step"),
        ("10%:72w, 100%:1h", "'10%:72w' is not a step"),
        ("10%:1h,, 100%:1h", "'' is not a step"),
        ("-10%:1h, 100%:1h", "'-10%:1h' is not a step"),
        ("33.33333%:1h, 100%:1h", "'33.33333%:1h' is not a step"),
        ("0%:1h, 100%:1h", "0% does not follow: shares grow, up to 100%"),
        ("50%:1h, 25%:1h, 100%:1h", "25% does not follow"),
        ("50%:1h, 50%:1h, 100%:1h", "50% does not follow"),
        ("110%:1h", "110% does not follow"),
        ("10%:72h, 90%:1h", "the last step must be 100%"),
        ("10%:" + "9" * 400 + "d, 100%:1h", "10% cannot be held for longer than ten years"),
    ],
)
def test_a_bad_schedule_is_refused_with_what_is_wrong(schedule: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_schedule(schedule)


@pytest.mark.parametrize("place", [place for place in every_setting() if len(place[-1]) > 1], ids=".".join)
def test_a_misspelt_setting_is_named_with_its_line_and_the_nearest_one(place: tuple[str, ...]) -> None:
    misspelt = place[-1][:-1] + ("x" if place[-1][-1] != "x" else "y")
    table = ".".join(["rag", *place[:-1]])
    refused = refusal(f"# a comment\n[{table}]\n{misspelt} = 1\n")
    assert refused.message == f"{FILE}, line 3: unknown setting {table}.{misspelt}"
    assert refused.advice == f"Did you mean {table}.{place[-1]}?"


def test_a_setting_in_the_wrong_table_is_sent_to_the_right_one() -> None:
    assert refusal("[rag]\nef_construction = 64").advice == "Did you mean rag.vector_storage.hnsw.ef_construction?"


def test_a_setting_like_no_other_gets_a_list_of_those_that_are_known() -> None:
    assert refusal("[rag.chunking]\nzzz = 1").advice == (
        "Known here: chunk_size, csv_chunk_max_tokens, csv_chunk_tokens, max_chunk_size, min_chunk_size, overlap, "
        "pdf_chunk_max_tokens, pdf_chunk_tokens, strategy."
    )


def test_a_table_outside_rag_is_refused() -> None:
    refused = refusal('[rag]\n\n[embedding]\nmodel = "hashing-64"')
    assert "line 3: unknown table [embedding]" in refused.message
    assert "[rag.embedding]" in refused.advice


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rag.database]\npool_size = 1", "line 2: rag.database.pool_size: Input should be greater than or equal to 2"),
        ('[rag.database]\npool_size = "8"', "rag.database.pool_size: Input should be a valid integer"),
        ("[rag.embedding]\nmodel = 384", "rag.embedding.model: Input should be a valid string"),
        ("[rag.database]\nurl = 1", "rag.database.url"),
        ('[rag.vector_storage]\nbackend = "faiss"', "rag.vector_storage.backend: Input should be 'pgvector' or 'mock'"),
        ('[rag]\ncollection = "Über uns"', "rag.collection"),
        ("[rag.vector_storage.hnsw]\nm = 40", "rag.vector_storage.hnsw: ef_construction must be at least twice m (80)"),
        ("[rag.chunking]\nchunk_size = 300", "max_chunk_size must not be smaller than chunk_size"),
        ("[rag.chunking]\noverlap = 200", "overlap must be smaller than chunk_size"),
        ("[rag.chunking]\nmin_chunk_size = 201", "min_chunk_size must not be larger than chunk_size"),
        ("[rag.chunking]\ncsv_chunk_tokens = 251", "csv_chunk_max_tokens must not be smaller than csv_chunk_tokens"),
        ("[rag.chunking]\npdf_chunk_tokens = 60\npdf_chunk_max_tokens = 50", "pdf_chunk_max_tokens must not be"),
        ('[rag.chunking]\nstrategy = "by page"', "Input should be 'semantic', 'sentence' or 'sliding_window'"),
        ("[rag.reading]\nmemory_mb = 10", "rag.reading.memory_mb: Input should be greater than or equal to 256"),
        ('[rag.rollout]\nschedule = "10%:1h"', "line 2: rag.rollout.schedule: the last step must be 100%"),
        (
            '[rag.rollout]\nsticky_by = "browser"',
            "rag.rollout.sticky_by: Input should be 'user', 'session' or 'tenant'",
        ),
        ("[rag.rollout]\npercentage = 101.0", "rag.rollout.percentage: Input should be less than or equal to 100"),
        ("[rag.circuit_breaker]\nfailures = 0", "rag.circuit_breaker.failures"),
        ("[rag]\ndatabase = 3", "rag.database"),
        ("rag = 3", "rag"),
        ("[rag", "is not valid TOML"),
    ],
)
def test_a_wrong_value_is_named_with_its_reason(text: str, said: str) -> None:
    assert said in refusal(text).message


def test_a_wrong_table_is_refused_under_a_database_url_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHELVE_DATABASE_URL", "postgresql://env/x")
    assert "rag.database" in refusal("[rag]\ndatabase = 3").message


def test_secrets_are_not_shown() -> None:
    settings = parse_settings(
        '[rag.database]\nurl = "postgresql://u:hidden@h/d"\n[rag.embedding]\napi_key = "hidden"', source=FILE
    )
    assert "hidden" not in repr(settings)
    assert settings.embedding.api_key == SecretStr("hidden")
    assert "hidden" not in str(refusal('[rag.embedding]\napi_key = "hidden"\nzzz = 1'))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().collection = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_each_endpoint_gets_its_own_key_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    text = (
        '[rag.embedding]\nmodel = "m"\nbase_url = "http://new/v1"\napi_key = "sk-new"\n'
        '[rag.embedding.endpoint_keys]\n"http://old/v1" = "sk-old"'
    )
    embedding = parse_settings(text, source=FILE).embedding
    assert key_for(embedding, "http://new/v1") == "sk-new"
    assert key_for(embedding, "http://old/v1") == "sk-old"
    assert key_for(embedding, "http://elsewhere/v1") == "none"
    assert key_for(embedding, OPENAI_URL) == "sk-env"
