"""Alembic revisions of this program's own schema."""
