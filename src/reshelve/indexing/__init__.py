"""Keeps every live index true to the corpus: outbox, leases, apply, drain, sweep, comparison."""
