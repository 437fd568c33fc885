"""PostgreSQL: the embedded server, the pools, the revisions of the schema."""
