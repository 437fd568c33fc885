"""May Reshelve live on this PostgreSQL server? Checked before its schema is made, with advice for the common hosts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from reshelve.errors import DatabaseError, DatabaseUnavailable, DatabaseUnsuitable

OLDEST_SERVER = 16
OLDEST_VECTOR = (0, 8)
_OLDEST_VECTOR_WORDS = ".".join(map(str, OLDEST_VECTOR))

Host = Literal["rds", "cloud_sql", "azure", "heroku", "supabase", "own"]

# The hosts are known by the roles, settings and schemas that they put into every database.
_FACTS = """
    SELECT current_setting('server_version_num')::int AS version_number,
           current_setting('server_version') AS version,
           current_setting('server_encoding') AS encoding,
           current_database()::text AS database,
           current_user::text AS role,
           pg_is_in_recovery() AS replica,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS installed_vector,
           (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS available_vector,
           has_database_privilege(current_database(), 'CREATE')
               OR coalesce((SELECT has_schema_privilege(oid, 'CREATE')
                            FROM pg_namespace WHERE nspname = 'reshelve'), false) AS may_create_schema,
           CASE WHEN EXISTS (SELECT FROM pg_namespace WHERE nspname = 'heroku_ext') THEN 'heroku'
                WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_superuser') THEN 'rds'
                WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloudsqlsuperuser') THEN 'cloud_sql'
                WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_pg_admin') THEN 'azure'
                WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = 'supabase_admin') THEN 'supabase'
                ELSE 'own' END AS host
"""

_UPGRADE_SERVER: dict[Host, str] = {
    "rds": "Upgrade it: `aws rds modify-db-instance --db-instance-identifier <name> --engine-version 17 "
    "--allow-major-version-upgrade --apply-immediately` (Aurora: modify-db-cluster).",
    "cloud_sql": "Upgrade it: `gcloud sql instances patch <name> --database-version=POSTGRES_17`.",
    "azure": "Upgrade it: `az postgres flexible-server upgrade --resource-group <group> --name <name> --version 17`.",
    "heroku": "Upgrade it: `heroku pg:upgrade:run --version 17 -a <app>`.",
    "supabase": "Upgrade it in the dashboard, under Project Settings, Infrastructure.",
    "own": "Upgrade it with pg_upgrade, or run a newer one: `docker run -e POSTGRES_PASSWORD=... "
    "pgvector/pgvector:pg17`.",
}

_GET_VECTOR: dict[Host, str] = {
    "rds": "pgvector comes with the engine there: upgrade to the newest minor version of the engine, then run "
    "`CREATE EXTENSION vector;` as the master user.",
    "cloud_sql": "pgvector comes with the maintenance version there: run `gcloud sql instances patch <name> "
    "--maintenance-version=<newest>`, then `CREATE EXTENSION vector;` as the user postgres.",
    "azure": "Allow it: `az postgres flexible-server parameter set --resource-group <group> --server-name <name> "
    "--name azure.extensions --value VECTOR`, then run `CREATE EXTENSION vector;`.",
    "heroku": "pgvector comes with the current plans: `heroku pg:upgrade:run -a <app>` if yours is older, then "
    '`heroku pg:psql -a <app> -c "CREATE EXTENSION vector"`.',
    "supabase": "Turn on `vector` in the dashboard, under Database, Extensions; if it is missing, upgrade the project.",
    "own": "Install it on the server's host (Debian: `apt install postgresql-{major}-pgvector`, Red Hat: "
    "`dnf install pgvector_{major}`, Docker: the image pgvector/pgvector:pg{major}), then run "
    "`CREATE EXTENSION vector;` in the database as a superuser.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What was read from the server. `available_vector` is the version that CREATE EXTENSION would bring."""

    version_number: int
    version: str
    encoding: str
    database: str
    role: str
    replica: bool
    installed_vector: str | None
    available_vector: str | None
    may_create_schema: bool
    host: Host

    @property
    def major(self) -> int:
        return self.version_number // 10_000


async def check_server(connection: psycopg.AsyncConnection[Any]) -> None:
    """Refuse a server that is too old, a replica, not UTF-8, without pgvector, or without the rights that are needed.

    Creates the extension where that is allowed. Raises DatabaseUnsuitable, saying what to run, and
    DatabaseUnavailable if the connection breaks.
    """
    try:
        facts = await _read_facts(connection)
        refused = refusal(facts)
        if refused is not None:
            raise refused
        if facts.installed_vector is None:
            await _create_extension(connection, facts)
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"The database could not be checked: {error}") from error


async def check_service(connection: psycopg.AsyncConnection[Any], *, vector_schema: str) -> None:
    """Refuse a service login that lacks a right that it needs. Raises DatabaseUnsuitable with the GRANT to run."""
    cursor = await connection.execute(
        """
        SELECT current_user, current_database(),
               has_schema_privilege('reshelve', 'USAGE') AND has_table_privilege(
                   (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = 'reshelve' AND c.relname = 'outbox'), 'INSERT'),
               has_database_privilege(current_database(), 'TEMPORARY'),
               has_schema_privilege(%s, 'USAGE')
        """,
        (vector_schema,),
    )
    row = await cursor.fetchone()
    assert row is not None
    role, database = _quoted(row[0]), _quoted(row[1])
    missing = [
        grant
        for held, grant in (
            (row[2], f"GRANT reshelve_service TO {role};"),
            (row[3], f"GRANT TEMPORARY ON DATABASE {database} TO {role};"),
            (row[4], f"GRANT USAGE ON SCHEMA {_quoted(vector_schema)} TO {role};"),
        )
        if not held
    ]
    if missing:
        raise DatabaseUnsuitable(
            f"The service's login {row[0]} lacks rights that it needs", advice="Run, as the owner: " + " ".join(missing)
        )


async def vector_schema(connection: psycopg.AsyncConnection[Any]) -> str:
    """The schema that the extension is in: it has to be on the search path. Not everywhere is it `public`."""
    cursor = await connection.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    )
    row = await cursor.fetchone()
    if row is None:
        raise DatabaseUnsuitable("The extension vector is not installed", advice="Run `CREATE EXTENSION vector;`.")
    return str(row[0])


def refusal(facts: ServerFacts) -> DatabaseError | None:
    """The first reason against this server, or None."""
    if facts.major < OLDEST_SERVER:
        return DatabaseUnsuitable(
            f"The server is PostgreSQL {facts.version}; Reshelve needs {OLDEST_SERVER} or newer",
            advice=_UPGRADE_SERVER[facts.host],
        )
    if facts.replica:
        return DatabaseUnsuitable(
            "The server is a read-only replica", advice="Put the primary's address into RESHELVE_DATABASE_URL."
        )
    if facts.encoding != "UTF8":
        return DatabaseUnsuitable(
            f"The database {facts.database} is encoded in {facts.encoding}; Reshelve needs UTF8",
            advice=f"Run `CREATE DATABASE reshelve OWNER {_quoted(facts.role)} ENCODING 'UTF8' TEMPLATE template0;`, "
            "and name that database in RESHELVE_DATABASE_URL.",
        )
    return _vector_refusal(facts) or _rights_refusal(facts)


def _vector_refusal(facts: ServerFacts) -> DatabaseError | None:
    get_vector = _GET_VECTOR[facts.host].format(major=facts.major)
    available_is_enough = facts.available_vector is not None and _is_enough(facts.available_vector)
    if facts.installed_vector is not None:
        if _is_enough(facts.installed_vector):
            return None
        update = "Run `ALTER EXTENSION vector UPDATE;` as its owner or a superuser."
        return DatabaseUnsuitable(
            f"pgvector is {facts.installed_vector} in {facts.database}; Reshelve needs {_OLDEST_VECTOR_WORDS} or newer",
            advice=update if available_is_enough else f"{get_vector} Then: {update}",
        )
    if available_is_enough:
        return None
    there = "no pgvector" if facts.available_vector is None else f"only pgvector {facts.available_vector}"
    return DatabaseUnsuitable(
        f"The server has {there}; Reshelve needs {_OLDEST_VECTOR_WORDS} or newer", advice=get_vector
    )


def _rights_refusal(facts: ServerFacts) -> DatabaseError | None:
    if facts.may_create_schema:
        return None
    return DatabaseUnsuitable(
        f"The role {facts.role} may not create a schema in {facts.database}",
        advice=f"Run `GRANT CREATE ON DATABASE {_quoted(facts.database)} TO {_quoted(facts.role)};` as the database's "
        "owner or a superuser.",
    )


def extension_refusal(facts: ServerFacts, reason: str) -> DatabaseUnsuitable:
    """The answer to a failed CREATE EXTENSION."""
    advice = {
        "azure": _GET_VECTOR["azure"],
        "rds": "Run `CREATE EXTENSION vector;` in the database as the master user (a member of rds_superuser).",
        "cloud_sql": "Run `CREATE EXTENSION vector;` in the database as the user postgres.",
        "supabase": "Turn on `vector` in the dashboard, under Database, Extensions.",
    }.get(facts.host, f"Run `CREATE EXTENSION vector;` in {facts.database} as a superuser.")
    return DatabaseUnsuitable(f"The role {facts.role} could not create the extension vector: {reason}", advice=advice)


async def _read_facts(connection: psycopg.AsyncConnection[Any]) -> ServerFacts:
    async with connection.transaction(), connection.cursor(row_factory=class_row(ServerFacts)) as cursor:
        # a database without an encoding would answer with bytes
        await cursor.execute("SET LOCAL client_encoding = 'UTF8'")
        await cursor.execute(_FACTS)
        facts = await cursor.fetchone()
    assert facts is not None
    return facts


async def _create_extension(connection: psycopg.AsyncConnection[Any], facts: ServerFacts) -> None:
    try:
        async with connection.transaction():
            # two programs at once: IF NOT EXISTS alone would let the second fail on a unique index
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('reshelve: create extension vector'))")
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise extension_refusal(facts, error.diag.message_primary or str(error)) from error


def _is_enough(version: str) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= OLDEST_VECTOR


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
