"""Language models: which one is asked, and asking it."""
