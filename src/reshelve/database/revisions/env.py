"""How Alembic reaches the database: through the engine that `schema.upgrade` made."""

from __future__ import annotations

from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, version_table_schema="reshelve")
    with context.begin_transaction():
        context.run_migrations()
