"""What the searches of one index did: counts, means, and latencies as a histogram, so that figures add up.

The bins of a histogram are geometric: each is 1.1 times as wide as the one before, so a quantile is right to 5 %
whatever its size (Masson, Rim and Lee, DDSketch, VLDB 2019). Histograms of processes and of minutes are added bin by
bin; quantiles are never averaged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

RATIO = 1.1
SMALLEST_MS = 0.05
LAST_BIN = 240
"""From some 120 hours on, and what is not a number: it must not pass for fast."""


def bin_of(milliseconds: float) -> int:
    """Bin b holds SMALLEST_MS · RATIO^b up to, and without, SMALLEST_MS · RATIO^(b+1); what is faster is in bin 0."""
    if milliseconds < SMALLEST_MS:
        return 0
    if not math.isfinite(milliseconds):
        return LAST_BIN
    return min(LAST_BIN, math.floor(math.log(milliseconds / SMALLEST_MS, RATIO) + 1e-9))


def least_ms(bin: int) -> float:
    """Every latency of the bin is at least so long."""
    return SMALLEST_MS * RATIO**bin


def milliseconds_of(bin: int) -> float:
    """The geometric middle of a bin."""
    return SMALLEST_MS * RATIO ** (bin + 0.5)


def quantile(bins: Mapping[int, int], q: float) -> float | None:
    """Milliseconds that a share of `q` does not exceed (the ⌈q·n⌉-th smallest), to 5 %; None without data."""
    total = sum(bins.values())
    if total == 0:
        return None
    wanted = max(1, math.ceil(q * total - 1e-9))
    seen = 0
    for bin in sorted(bins):
        seen += bins[bin]
        if seen >= wanted:
            return milliseconds_of(bin)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """One arm's searches over some time. Counts are 0 and everything else is None where there is no data.

    `errors` are among the `requests`. `fallbacks` are searches that the serving index answered for the candidate: after
    an error, or because the circuit breaker asked nothing of it. `similarity` is the mean score of the first results.
    `search_cache_hits` were answered without asking the index, and are not among the `requests`.
    `shadowed` searches ran beside the live ones, `shadow_errors` failed there; `overlap` and `rbo` are means over the
    `compared` ones. `answers` were made from passages that this arm found, `extractive_answers` of them without a
    language model, and `abstentions` said that there is none; `answer_errors` came to nothing. The histograms count by
    `bin_of`.
    """

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    cache_hits: int = 0
    search_cache_hits: int = 0
    search_cache_misses: int = 0
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    similarity: float | None = None
    similarity_count: int = 0
    shadowed: int = 0
    shadow_errors: int = 0
    shadow_mean_ms: float | None = None
    shadow_p95_ms: float | None = None
    compared: int = 0
    overlap: float | None = None
    rbo: float | None = None
    answers: int = 0
    extractive_answers: int = 0
    abstentions: int = 0
    answer_errors: int = 0
    citations: int = 0
    dropped_citations: int = 0
    answer_p95_ms: float | None = None
    latencies: Mapping[int, int] = field(default_factory=dict[int, int], repr=False)
    shadow_latencies: Mapping[int, int] = field(default_factory=dict[int, int], repr=False)

    @property
    def tried(self) -> int:
        """Searches that were this arm's to answer, those too that its circuit breaker kept from it."""
        return self.requests + max(0, self.fallbacks - self.errors)

    @property
    def failed(self) -> int:
        return max(self.errors, self.fallbacks)

    def slower_than(self, milliseconds: float) -> int:
        """Requests that took longer for certain: those of the bins that lie above it as a whole."""
        return sum(count for bin, count in self.latencies.items() if least_ms(bin) >= milliseconds)

    def shadowed_as_live(self) -> ArmFigures:
        """The shadow searches as if they had been live, for the gates before the first live one."""
        return replace(
            self,
            requests=self.shadowed + self.shadow_errors,
            errors=self.shadow_errors,
            fallbacks=0,
            mean_ms=self.shadow_mean_ms,
            p50_ms=quantile(self.shadow_latencies, 0.50),
            p95_ms=self.shadow_p95_ms,
            p99_ms=quantile(self.shadow_latencies, 0.99),
            latencies=self.shadow_latencies,
        )

    @classmethod
    def from_counts(cls, rows: Iterable[tuple[str, int, int, float]]) -> ArmFigures:
        """Rows of (name, bin, count, total); the same name and bin may come more than once."""
        counts: Counter[str] = Counter()
        bins: dict[str, Counter[int]] = {"request": Counter(), "shadow": Counter(), "answer": Counter()}
        sums: dict[str, float] = {}
        for name, bin, count, total in rows:
            counts[name] += count
            sums[name] = sums.get(name, 0.0) + total
            if name in bins:
                bins[name][bin] += count
        means = {name: sums[name] / count for name, count in counts.items() if count > 0}
        return cls(
            requests=counts["request"],
            errors=counts["error"],
            fallbacks=counts["fallback"],
            cache_hits=counts["cache_hit"],
            search_cache_hits=counts["search_cache_hit"],
            search_cache_misses=counts["search_cache_miss"],
            mean_ms=means.get("request"),
            p50_ms=quantile(bins["request"], 0.50),
            p95_ms=quantile(bins["request"], 0.95),
            p99_ms=quantile(bins["request"], 0.99),
            similarity=means.get("similarity"),
            similarity_count=counts["similarity"],
            shadowed=counts["shadow"],
            shadow_errors=counts["shadow_error"],
            shadow_mean_ms=means.get("shadow"),
            shadow_p95_ms=quantile(bins["shadow"], 0.95),
            compared=counts["overlap"],
            overlap=means.get("overlap"),
            rbo=means.get("rbo"),
            answers=counts["answer"],
            extractive_answers=counts["answer_extractive"],
            abstentions=counts["answer_abstained"],
            answer_errors=counts["answer_error"],
            citations=counts["citation"],
            dropped_citations=counts["citation_dropped"],
            answer_p95_ms=quantile(bins["answer"], 0.95),
            latencies=dict(bins["request"]),
            shadow_latencies=dict(bins["shadow"]),
        )
