"""Which index answers whom. The same unit (user, session or tenant) is always answered by the same side.

A unit falls into one of 1,000,000 buckets by the first eight bytes, big-endian, of SHA-256("<salt>:<unit>"), where the
salt is the migration's id; `docs/concepts.md` has test vectors. The candidate answers the buckets below the share:
when the share grows units are only added to it, and when it shrinks the newest go back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from reshelve.domain.indexes import Index

BUCKETS = 1_000_000


class Arm(StrEnum):
    """The side of a live comparison that answers: the index that was there before, or the one that comes."""

    SERVING = "serving"
    CANDIDATE = "candidate"


def bucket(salt: str, unit: str) -> int:
    digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def share_of(percent: float) -> int:
    """A percentage in buckets."""
    return round(percent * BUCKETS / 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who answers one search, and who answers it where that one fails."""

    index: Index
    arm: Arm
    otherwise: Index | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The indexes that answer a tenant's searches (tenant "": everybody without a route of their own).

    `candidate` is there from the shadowing to the switch, and answers `share` buckets. After the switch it is
    `serving`, and `previous` what served before, until the soak is over. `epoch` grows with every change.
    """

    collection_id: int
    tenant: str = ""
    epoch: int
    serving: Index
    candidate: Index | None = None
    previous: Index | None = None
    share: int = 0
    salt: str = ""
    sticky_by: str = "user"

    @property
    def old(self) -> Index:
        return self.previous or self.serving

    @property
    def new(self) -> Index | None:
        return self.serving if self.previous is not None else self.candidate

    @property
    def share_now(self) -> int:
        return BUCKETS if self.previous is not None else self.share

    @property
    def percent_now(self) -> float:
        return self.share_now * 100 / BUCKETS

    @property
    def sides(self) -> list[tuple[Arm, Index]]:
        """Who takes part: the old index, and the new one where there is one."""
        return [(Arm.SERVING, self.old), *([(Arm.CANDIDATE, self.new)] if self.new is not None else [])]

    def arm_of(self, index_id: int) -> Arm:
        return Arm.CANDIDATE if self.new is not None and index_id == self.new.id else Arm.SERVING

    def choose(self, unit: str | None, *, share: int | None = None) -> Choice:
        """`share` goes over the route's own. Without a unit: the old index, until all have left it."""
        limit = self.share_now if share is None else share
        if self.new is None:
            return Choice(index=self.serving, arm=Arm.SERVING)
        if limit >= BUCKETS or (unit is not None and limit > 0 and bucket(self.salt, unit) < limit):
            return Choice(index=self.new, arm=Arm.CANDIDATE, otherwise=self.old)
        return Choice(index=self.old, arm=Arm.SERVING)
