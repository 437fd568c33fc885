"""The demonstration's report: one HTML file that loads nothing."""

from __future__ import annotations

from reshelve.demo import charts
from reshelve.demo.facts import DemoFacts, promises
from reshelve.display.pages import render


def render_report(facts: DemoFacts) -> str:
    """A complete HTML document with its style and charts inside; no script, and nothing is fetched."""
    kept = promises(facts)
    drawn, ticks = charts.intervals(facts.quality.differences)
    return render(
        "reshelve.demo",
        "report.html.j2",
        {
            "facts": facts,
            "promises": kept,
            "passed": all(promise.kept for promise in kept),
            "chart": charts.latency_chart(facts),
            "intervals": drawn,
            "interval_ticks": ticks,
            "total": max(facts.seconds, 0.001),
        },
    )
