"""What the demonstration saw: the one record that the terminal table, the HTML report and `--json` are made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reshelve.display.numbers import count, difference, score
from reshelve.evaluation.paired import PairedDifference

NOT_WORSE_BY = 0.02
"""The loss of nDCG@10 that the interval must exclude before the new model counts as not worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    cpus: int
    python: str
    postgres: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`started_at` is in seconds from the start of the demonstration."""

    name: str
    started_at: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searches:
    """`mixed` counts answers whose query was embedded by another model than the index that answered."""

    served: int
    failed: int
    mixed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """`confirmed` writes were found again, or rightly absent, at the end; `lost` ones were not."""

    inserted: int
    updated: int
    deleted: int
    confirmed: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySecond:
    """The searches that ended within one second of the demonstration; with a `count` of 0 the times mean nothing."""

    second: int
    p50_ms: float
    p95_ms: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A cutover or a rollback; `serving` is the model that answers from then on."""

    second: float
    label: str
    serving: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What a search took before the migration, between its first step and the last switch, and after."""

    before: Percentiles
    during: Percentiles
    after: Percentiles
    timeline: list[LatencySecond]
    moments: list[Moment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The pass that let the cutover happen. `flawed` vectors have a wrong size, are not finite, or are zero."""

    rows: int
    missing: int
    extra: int
    flawed: int
    repaired: int
    checksum: str
    sample_cosine: float
    ann_recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means over the judged queries, metric -> mean, and paired differences of nDCG@10 first, then the others."""

    before: dict[str, float]
    after: dict[str, float]
    differences: list[PairedDifference]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One change of the serving index, in the order in which they were made."""

    name: str
    switch_ms: float
    re_embedded_rows: int
    drained_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKept:
    """What the plan foretold, and the seconds that it came to."""

    tokens: int
    dollars: float
    estimated_seconds: float
    actual_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFacts:
    machine: Machine
    from_model: str
    to_model: str
    documents: int
    chunks: int
    steps: list[Step]
    searches: Searches
    writes: Writes
    latency: Latency
    verification: Verification
    quality: Quality
    switches: list[Switch]
    plan: PlanKept

    @property
    def seconds(self) -> float:
        """From the start to the end of the last step."""
        return max((step.started_at + step.seconds for step in self.steps), default=0.0)


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that Reshelve says of a migration, whether it held here, and the figures that say so."""

    text: str
    kept: bool
    seen: str


def promises(facts: DemoFacts) -> list[Promise]:
    searches, writes, verified = facts.searches, facts.writes, facts.verification
    differing = verified.missing + verified.extra + verified.flawed
    re_embedded = sum(switch.re_embedded_rows for switch in facts.switches)
    found = [
        Promise(
            "No search failed",
            searches.served > 0 and searches.failed == 0,
            f"{count(searches.served)} served, {count(searches.failed)} failed",
        ),
        Promise(
            "No answer mixed two models",
            searches.served > 0 and searches.mixed == 0,
            f"{count(searches.mixed)} mixed of {count(searches.served)}",
        ),
        Promise(
            "No write was lost",
            writes.confirmed > 0 and writes.lost == 0,
            f"{count(writes.confirmed)} confirmed, {count(writes.lost)} lost "
            f"({count(writes.inserted)} inserted, {count(writes.updated)} updated, {count(writes.deleted)} deleted)",
        ),
        Promise(
            "The new index equals the source",
            verified.rows > 0 and differing == 0,
            f"{count(verified.rows)} rows: {count(verified.missing)} missing, {count(verified.extra)} extra, "
            f"{count(verified.flawed)} flawed, {count(verified.repaired)} repaired",
        ),
        Promise(
            "Switching re-embeds nothing",
            bool(facts.switches) and re_embedded == 0,
            f"{count(re_embedded)} rows re-embedded in {count(len(facts.switches))} switches",
        ),
    ]
    return found + [_not_worse(paired) for paired in facts.quality.differences[:1]]


def _not_worse(paired: PairedDifference) -> Promise:
    return Promise(
        "The answers did not get worse",
        paired.low > -NOT_WORSE_BY,
        f"{paired.metric} {score(paired.before)} to {score(paired.after)}: {difference(paired.difference)} "
        f"[{difference(paired.low)}, {difference(paired.high)}]",
    )


def as_json(facts: DemoFacts) -> dict[str, Any]:
    """Plain dictionaries, lists, strings and numbers; the promises and the verdict go with them."""
    kept = promises(facts)
    return {
        **asdict(facts),
        "seconds": facts.seconds,
        "promises": [asdict(promise) for promise in kept],
        "passed": all(promise.kept for promise in kept),
    }
