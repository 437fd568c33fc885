"""The demonstration: a live collection moves to another model, and proves it."""
