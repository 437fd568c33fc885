"""Embedding providers: one protocol (`protocol`), one file a provider, one door (`opening.open_embedder`)."""
