"""Two rankings in one list, so that what people use of it says which one they prefer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Mapping
from typing import TypeVar

from reshelve.domain.evalues import uneven
from reshelve.domain.routes import Arm

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def team_draft(
    serving: Mapping[Key, Item], candidate: Mapping[Key, Item], *, length: int, seed: str
) -> list[tuple[Item, Arm]]:
    """At most `length` items, each with the side that drafted it. The mappings are in order of rank.

    Like captains who pick their teams: in every round a coin says who is first, and each side adds its best item that
    nobody has yet. What both sides have goes to the one that drafted it. The same seed gives the same list. Radlinski,
    Kurup and Joachims, How does clickthrough data reflect retrieval quality?, CIKM 2008, algorithm 2.
    """
    # Not hash(): that differs from process to process.
    coins = random.Random(hashlib.sha256(seed.encode()).digest())
    sides = {Arm.SERVING: serving, Arm.CANDIDATE: candidate}
    left = {arm: iter(side) for arm, side in sides.items()}
    drafted: dict[Key, tuple[Item, Arm]] = {}
    while len(drafted) < length:
        before = len(drafted)
        order = (Arm.SERVING, Arm.CANDIDATE) if coins.random() < 0.5 else (Arm.CANDIDATE, Arm.SERVING)
        for arm in order:
            best = next((key for key in left[arm] if key not in drafted), None)
            if best is not None and len(drafted) < length:
                drafted[best] = (sides[arm][best], arm)
        if len(drafted) == before:
            break
    return list(drafted.values())


def anytime_valid(*, candidate_wins: int, serving_wins: int) -> float:
    """E-value against "neither side is preferred", by searches won; ties do not count. 20 and more is evidence.

    It may be looked at after every search: see `evalues.uneven`.
    """
    return uneven(candidate_wins, serving_wins)
