"""Upkeep takes a small part of the time, however long a piece of it takes."""

from __future__ import annotations

import pytest

from reshelve.operations import now_and_then
from reshelve.operations.now_and_then import NowAndThen


def test_a_rest_is_as_long_as_the_work_was(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(now_and_then.time, "monotonic", lambda: now[0])
    folding = NowAndThen(writes=1, rest=20.0)
    assert folding.due
    with folding.work():
        now[0] += 2
    assert not folding.due
    now[0] += 39
    assert not folding.due
    now[0] += 2
    assert folding.due


def test_few_of_many_writes_find_it_due() -> None:
    often = sum(NowAndThen(writes=64, rest=0).due for _ in range(6400))
    assert 50 <= often <= 160
