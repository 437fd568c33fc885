"""What this process is asking providers for right now, so that no two of its tasks pay for one text, or too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from uuid import UUID

from reshelve.errors import BudgetReached

_TRIAL_TEXTS = 4
_MARGIN = 1.25
"""Over the dearest request so far: texts differ."""


class Flights:
    """Texts on their way to a model, by fingerprint and content hash."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, UUID], asyncio.Event] = {}

    @contextmanager
    def claimed(self, fingerprint: str, digests: Iterable[UUID]) -> Generator[list[UUID]]:
        """Yields those that nobody else is embedding. They are the caller's until the block ends."""
        mine = [digest for digest in digests if (fingerprint, digest) not in self._under_way]
        landed = asyncio.Event()
        self._under_way |= {(fingerprint, digest): landed for digest in mine}
        try:
            yield mine
        finally:
            for digest in mine:
                del self._under_way[fingerprint, digest]
            landed.set()

    async def landed(self, fingerprint: str, digests: Sequence[UUID]) -> None:
        """Until each of them has been let go of by whoever claimed it."""
        for digest in digests:
            while (event := self._under_way.get((fingerprint, digest))) is not None:
                await event.wait()


@dataclass(slots=True)
class Expense:
    """`texts` may be embedded. Whoever did so enters the `tokens` that were counted."""

    texts: int
    tokens: int | None = None


class Purse:
    """The money for one index. What is under way counts as spent, at the dearest rate that was seen.

    No tokenizer makes more tokens than there are bytes, and most make far fewer. So the first request is a small one,
    priced by its bytes, and shows what a byte really costs.
    """

    def __init__(self, *, price_per_million_tokens: float) -> None:
        self._price = price_per_million_tokens / 1_000_000
        self._tokens_a_byte: float | None = None
        self._set_aside_usd = 0.0
        self._under_way = 0
        self._settlements = 0
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def reserved(
        self, sizes: Sequence[int], left_usd: Callable[[], Awaitable[float | None]]
    ) -> AsyncGenerator[Expense]:
        """How many texts of these sizes (in bytes), from the first on, may be embedded inside the block.

        `left_usd` tells what is neither spent nor set aside elsewhere, None without a cap. Raises BudgetReached when
        there is not enough for one text, and nothing is under way that may turn out cheaper.
        """
        count, cost = await self._fitting(sizes, left_usd)
        self._set_aside_usd += cost
        self._under_way += 1
        expense = Expense(count)
        try:
            yield expense
            if expense.tokens is not None:
                rate = expense.tokens / max(sum(sizes[:count]), 1)
                self._tokens_a_byte = max(self._tokens_a_byte or 0.0, rate)
        finally:
            self._set_aside_usd -= cost
            self._under_way -= 1
            self._settlements += 1
            self._settled.set()
            self._settled = asyncio.Event()

    async def _fitting(
        self, sizes: Sequence[int], left_usd: Callable[[], Awaitable[float | None]]
    ) -> tuple[int, float]:
        while True:
            seen = self._settlements
            left = await left_usd()
            if left is None:
                return len(sizes), 0.0
            if seen != self._settlements:
                continue
            learning = self._tokens_a_byte is None and self._under_way > 0
            costs = [] if learning else self._costs(sizes)
            count = sum(self._set_aside_usd + cost <= left for cost in costs)
            if count:
                return count, costs[count - 1]
            if not self._under_way:
                raise BudgetReached(
                    "the spend cap is reached: what is left does not pay for the next text",
                    advice="Nothing is lost: reshelve resume --budget-usd with more goes on from here.",
                )
            await self._settled.wait()

    def _costs(self, sizes: Sequence[int]) -> list[float]:
        """The most that the first text, the first two, the first three … may cost."""
        if self._tokens_a_byte is None:
            return [size * self._price for size in accumulate(sizes[:_TRIAL_TEXTS])]
        rate = min(1.0, self._tokens_a_byte * _MARGIN)
        return [size * rate * self._price for size in accumulate(sizes)]
