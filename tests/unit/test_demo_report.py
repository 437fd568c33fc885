"""The demonstration's report, table and JSON, from made-up facts."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from reshelve.demo.charts import latency_chart
from reshelve.demo.facts import (
    DemoFacts,
    Latency,
    LatencySecond,
    Machine,
    Moment,
    Percentiles,
    PlanKept,
    Quality,
    Searches,
    Step,
    Switch,
    Verification,
    Writes,
    as_json,
    promises,
)
from reshelve.demo.report import render_report
from reshelve.demo.table import print_table
from reshelve.display import numbers
from reshelve.evaluation.paired import PairedDifference

STEPS = [
    Step(name="start PostgreSQL", started_at=0.0, seconds=1.31, note="embedded server, schema 0001"),
    Step(name="ingest", started_at=1.4, seconds=4.87, note="1,000 documents"),
    Step(name="build hashing-512", started_at=6.3, seconds=0.62),
    Step(name="plan", started_at=7.1, seconds=0.84, note="dry run of the same actions"),
    Step(name="prepare", started_at=8.0, seconds=0.0921, note="feed the new index"),
    Step(name="backfill", started_at=8.2, seconds=33.4, note="1,724 rows, 51.6 rows/s <b>"),
    Step(name="build", started_at=41.7, seconds=0.71, note="HNSW m 16, ef_construction 64"),
    Step(name="verify", started_at=42.5, seconds=2.93, note="one pass without a repair"),
    Step(name="cutover", started_at=45.6, seconds=0.0112),
    Step(name="rollback", started_at=52.0, seconds=0.0094),
    Step(name="second cutover", started_at=57.1, seconds=0.0089),
    Step(name="evaluate both indexes", started_at=61.0, seconds=9.46, note="300 queries on each"),
]
TIMELINE = [
    LatencySecond(
        second=second,
        p50_ms=4.1 + (6.3 if 8 <= second < 42 else 0) + math.sin(second),
        p95_ms=9.7 + (19.2 if 8 <= second < 42 else 0) + 3 * math.sin(1.7 * second),
        count=0 if second == 20 else 140 + second,
    )
    for second in range(7, 70)
]
FACTS = DemoFacts(
    machine=Machine(cpus=2, python="3.11.9", postgres="18.4"),
    from_model="hashing-512",
    to_model="minilm-l6-v2",
    documents=1031,
    chunks=1724,
    steps=STEPS,
    searches=Searches(served=12_431, failed=0, mixed=0),
    writes=Writes(inserted=61, updated=47, deleted=33, confirmed=141, lost=0),
    latency=Latency(
        before=Percentiles(p50_ms=4.2, p95_ms=9.8),
        during=Percentiles(p50_ms=10.4, p95_ms=28.9),
        after=Percentiles(p50_ms=5.3, p95_ms=11.6),
        timeline=TIMELINE,
        moments=[
            Moment(second=45.6, label="cutover", serving="minilm-l6-v2"),
            Moment(second=52.0, label="rollback", serving="hashing-512"),
            Moment(second=57.1, label="second cutover", serving="minilm-l6-v2"),
        ],
    ),
    verification=Verification(
        rows=1719,
        missing=0,
        extra=0,
        flawed=0,
        repaired=0,
        checksum="9f3c1a52e07b",
        sample_cosine=0.99987,
        ann_recall=0.99712,
    ),
    quality=Quality(
        before={"nDCG@10": 0.5312, "R@10": 0.6678, "R@100": 0.8543, "RR": 0.4961},
        after={"nDCG@10": 0.7423, "R@10": 0.8765, "R@100": 0.9634, "RR": 0.7087},
        differences=[
            PairedDifference(
                metric="nDCG@10",
                before=0.5312,
                after=0.7423,
                difference=0.2111,
                low=0.1703,
                high=0.2522,
                confidence=0.95,
                queries=300,
                p_value=0.0002,
                better=138,
                worse=32,
                equal=130,
            ),
            PairedDifference(
                metric="R@100",
                before=0.8543,
                after=0.9634,
                difference=0.1091,
                low=0.0746,
                high=0.1457,
                confidence=0.95,
                queries=300,
                p_value=0.0134,
                better=41,
                worse=5,
                equal=254,
            ),
        ],
    ),
    switches=[
        Switch(name="cutover", switch_ms=3.14, re_embedded_rows=0, drained_rows=17),
        Switch(name="rollback", switch_ms=2.73, re_embedded_rows=0, drained_rows=13),
        Switch(name="second cutover", switch_ms=2.58, re_embedded_rows=0, drained_rows=11),
    ],
    plan=PlanKept(tokens=402_917, dollars=0.0081, estimated_seconds=31.2, actual_seconds=37.4),
)


def _expected_figures() -> set[str]:
    """How each figure of the facts must read."""
    facts = FACTS
    counts = [facts.documents, facts.chunks, facts.searches.served, facts.plan.tokens, facts.verification.rows]
    counts += [facts.writes.inserted, facts.writes.updated, facts.writes.deleted, facts.writes.confirmed]
    counts += [switch.drained_rows for switch in facts.switches]
    written = {numbers.count(value) for value in counts}
    written |= {text for step in facts.steps for text in (f"{step.started_at:.1f} s", numbers.seconds(step.seconds))}
    for part in (facts.latency.before, facts.latency.during, facts.latency.after):
        written |= {numbers.milliseconds(part.p50_ms), numbers.milliseconds(part.p95_ms)}
    written |= {numbers.milliseconds(switch.switch_ms) for switch in facts.switches}
    for side in (facts.quality.before, facts.quality.after):
        written |= {f"{value:.4f}" for value in side.values()}
    written |= {"0.9999", "0.9971", "9f3c1a52e07b", "$0.0081", "31.2 s", "37.4 s", "3.11.9", "18.4", "95 %"}
    written |= {"+0.2111", "+0.1703", "+0.2522", "+0.1091", "+0.0746", "+0.1457", "p < 0.001", "p = 0.013"}
    return written | {"138", "32", "130", "41", "5", "254", "300", "2 CPUs", "0 failed", "0 mixed", "0 lost"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _parsed(facts: DemoFacts) -> _Page:
    page = _Page()
    page.feed(render_report(facts))
    return page


def _printed(facts: DemoFacts, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    print_table(facts, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _missing(text: str) -> list[str]:
    return [figure for figure in sorted(_expected_figures()) if not re.search(rf"(?<![\d.]){re.escape(figure)}", text)]


def test_every_figure_stands_in_the_report() -> None:
    page = _parsed(FACTS)
    text = " ".join(" ".join(page.words).split())
    assert _missing(text) == []
    assert all(step.note in text for step in FACTS.steps)
    for second in FACTS.latency.timeline:
        seen = (
            f"second {second.second}: p50 {second.p50_ms:.1f} ms, p95 {second.p95_ms:.1f} ms, {second.count} searches"
        )
        assert (seen in text) == (second.count > 0)
    assert all(f"{moment.label} at {moment.second:.1f} s" in text for moment in FACTS.latency.moments)


def test_the_report_loads_nothing() -> None:
    report = render_report(FACTS)
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|<script|<link|<img|<iframe|\bsrc=|\bhref=", report, re.IGNORECASE
    )
    assert "1,724 rows, 51.6 rows/s &lt;b&gt;" in report  # what the facts say is text, never markup


def test_every_figure_stands_on_one_terminal_screen() -> None:
    printed = _printed(FACTS)
    assert _missing(printed) == []
    assert "…" not in printed
    assert len(printed.splitlines()) <= 45
    assert max(map(len, printed.splitlines())) <= 100
    assert max(map(len, _printed(FACTS, width=240).splitlines())) <= 100


def test_the_json_is_plain_and_holds_the_same_facts() -> None:
    answer = json.loads(json.dumps(as_json(FACTS), allow_nan=False))
    assert answer["passed"] is True
    assert answer["searches"] == {"served": 12_431, "failed": 0, "mixed": 0}
    assert answer["quality"]["differences"][0]["low"] == 0.1703
    assert answer["seconds"] == pytest.approx(70.46)


BROKEN = {
    "a failed search": replace(FACTS, searches=replace(FACTS.searches, failed=1)),
    "no search": replace(FACTS, searches=replace(FACTS.searches, served=0)),
    "a mixed answer": replace(FACTS, searches=replace(FACTS.searches, mixed=1)),
    "a lost write": replace(FACTS, writes=replace(FACTS.writes, lost=1)),
    "a missing row": replace(FACTS, verification=replace(FACTS.verification, missing=1)),
    "a rollback that embeds": replace(FACTS, switches=[replace(FACTS.switches[1], re_embedded_rows=1)]),
    "worse answers": replace(
        FACTS, quality=replace(FACTS.quality, differences=[replace(FACTS.quality.differences[0], low=-0.03)])
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told_everywhere(name: str) -> None:
    facts = BROKEN[name]
    assert not all(promise.kept for promise in promises(facts))
    assert as_json(facts)["passed"] is False
    assert "not kept" in render_report(facts)
    assert "✗" in _printed(facts)


def test_the_latency_line_breaks_where_no_search_ended_and_a_spike_turns_the_scale_logarithmic() -> None:
    chart = latency_chart(FACTS)
    assert chart.p50.count("M") == 2
    assert [band.is_new for band in chart.bands] == [False, True, False, True]
    assert sum(band.width for band in chart.bands) == pytest.approx(100)
    assert not chart.is_logarithmic
    spike = replace(TIMELINE[0], p95_ms=2_500.0)
    steep = latency_chart(replace(FACTS, latency=replace(FACTS.latency, timeline=[spike, *TIMELINE[1:]])))
    assert steep.is_logarithmic
    assert [tick.label for tick in steep.y_ticks] == ["1", "10", "100", "1000"]
    assert all(0 <= tick.at <= 100 for tick in (*chart.y_ticks, *steep.y_ticks))


def test_facts_without_searches_or_comparisons_still_make_a_report() -> None:
    bare = replace(
        FACTS,
        steps=[],
        switches=[],
        latency=replace(FACTS.latency, timeline=[], moments=[]),
        quality=Quality(before={}, after={}, differences=[]),
    )
    assert "not kept" in render_report(bare)
    assert "✗" in _printed(bare)
