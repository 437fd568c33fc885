"""The demonstration's report: one HTML file that loads nothing."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from reshelve.demo import charts, figures
from reshelve.demo.facts import DemoFacts, promises


def render_report(facts: DemoFacts) -> str:
    """A complete HTML document with its style and charts inside; no script, and nothing is fetched."""
    from jinja2 import Environment, StrictUndefined

    environment: Any = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("count", "score", "difference", "seconds", "milliseconds", "dollars", "probability", "percent"):
        environment.filters[name] = getattr(figures, name)
    template = files("reshelve.demo").joinpath("report.html.j2").read_text("utf-8")
    kept = promises(facts)
    drawn, ticks = charts.intervals(facts.quality.differences)
    return environment.from_string(template).render(
        facts=facts,
        promises=kept,
        passed=all(promise.kept for promise in kept),
        chart=charts.latency_chart(facts),
        intervals=drawn,
        interval_ticks=ticks,
        total=max(facts.seconds, 0.001),
    )
