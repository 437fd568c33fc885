from dataclasses import replace

import pytest

from reshelve.database.server_checks import Host, ServerFacts, extension_refusal, refusal
from reshelve.errors import DatabaseUnsuitable

GOOD = ServerFacts(
    version_number=160_004,
    version="16.4",
    encoding="UTF8",
    database="library",
    role="alice",
    replica=False,
    installed_vector="0.8.0",
    available_vector="0.8.0",
    may_create_schema=True,
    host="own",
)
HOSTS: tuple[Host, ...] = ("rds", "cloud_sql", "azure", "heroku", "supabase", "own")


@pytest.mark.parametrize(
    "facts",
    [
        GOOD,
        replace(GOOD, installed_vector=None),
        replace(GOOD, installed_vector="0.10.1"),
        replace(GOOD, version_number=180_004),
        replace(GOOD, installed_vector="1.0", available_vector=None),
    ],
)
def test_suitable_servers(facts: ServerFacts) -> None:
    assert refusal(facts) is None


@pytest.mark.parametrize(
    ("facts", "message", "advice"),
    [
        (replace(GOOD, version_number=150_008, version="15.8"), "PostgreSQL 15.8", "pg_upgrade"),
        (replace(GOOD, replica=True), "read-only replica", "primary"),
        (replace(GOOD, encoding="SQL_ASCII"), "SQL_ASCII", "ENCODING 'UTF8' TEMPLATE template0"),
        (
            replace(GOOD, installed_vector=None, available_vector=None),
            "no pgvector",
            "apt install postgresql-16-pgvector",
        ),
        (replace(GOOD, installed_vector=None, available_vector="0.7.4"), "only pgvector 0.7.4", "dnf install"),
        (replace(GOOD, installed_vector="0.7.4"), "pgvector is 0.7.4", "ALTER EXTENSION vector UPDATE;"),
        (replace(GOOD, installed_vector="0.5.0", available_vector="0.7.0"), "pgvector is 0.5.0", "apt install"),
        (replace(GOOD, may_create_schema=False), "may not create a schema", 'GRANT CREATE ON DATABASE "library"'),
    ],
)
def test_refusals_say_what_to_run(facts: ServerFacts, message: str, advice: str) -> None:
    refused = refusal(facts)
    assert isinstance(refused, DatabaseUnsuitable)
    assert message in refused.message
    assert advice in refused.advice


@pytest.mark.parametrize(
    ("host", "old", "without"),
    [
        ("rds", "aws rds", "master user"),
        ("cloud_sql", "gcloud sql", "user postgres"),
        ("azure", "az postgres", "azure.extensions"),
        ("heroku", "heroku pg:upgrade", "heroku pg:psql"),
        ("supabase", "dashboard", "dashboard"),
    ],
)
def test_the_advice_fits_the_host(host: Host, old: str, without: str) -> None:
    too_old = refusal(replace(GOOD, host=host, version_number=140_000, version="14.0"))
    no_vector = refusal(replace(GOOD, host=host, installed_vector=None, available_vector=None))
    assert too_old is not None
    assert no_vector is not None
    assert old in too_old.advice
    assert without in no_vector.advice


@pytest.mark.parametrize("host", HOSTS)
def test_a_failed_creation_names_the_role_and_the_statement(host: Host) -> None:
    refused = extension_refusal(replace(GOOD, host=host), "permission denied")
    assert "alice" in refused.message
    assert "permission denied" in refused.message
    assert "vector" in refused.advice.lower()
