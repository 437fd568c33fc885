"""Vector stores: one protocol (`protocol`), one file a store."""
