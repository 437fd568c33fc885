"""The road from one index to another, while it serves: plan, backfill, build, verify, cut over, roll back, clean up."""
