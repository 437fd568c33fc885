"""Upkeep that writers do on their way: after a few of their writes, and for a small part of the time."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from contextlib import contextmanager


class NowAndThen:
    """Due after one write of `writes` on average, but a rest is `rest` times as long as the last work took."""

    def __init__(self, *, writes: int, rest: float) -> None:
        self._writes = writes
        self._rest = rest
        self._due_at = 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due_at and random.random() * self._writes < 1

    @contextmanager
    def work(self) -> Generator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self._due_at = ended + self._rest * (ended - began)
