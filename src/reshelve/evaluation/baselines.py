"""Baselines: the figures of the serving index at one time, kept to compare later ones with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, cast

from reshelve.database.pools import Connection
from reshelve.domain.figures import ArmFigures
from reshelve.domain.routes import Arm, Route
from reshelve.domain.thresholds import measured
from reshelve.errors import NotFoundError
from reshelve.evaluation.paired import PairedDifference, paired_difference
from reshelve.evaluation.runs import Evaluation
from reshelve.operations.figures import read_figures

Change = Literal["better", "worse", "same", "unknown"]
_EQUAL_WITHIN = 0.05
"""Live figures that differ by less are called the same."""
_FIGURES: tuple[tuple[str, bool], ...] = (
    ("mean_ms", False),
    ("p50_ms", False),
    ("p95_ms", False),
    ("p99_ms", False),
    ("error_rate", False),
    ("cache_hit_rate", True),
    ("similarity", True),
)
"""Name, and whether more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means and values by query of judged queries; `judged` is the folder they came from."""

    judged: str
    means: dict[str, float]
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Figures of `index` over the `seconds` before `at`. `replaced`: there was one of this name before."""

    name: str
    at: datetime
    index: int
    model: str
    seconds: float
    requests: int
    figures: dict[str, float | int | None]
    quality: Quality | None
    replaced: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureChange:
    name: str
    before: float | None
    now: float | None
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineComparison:
    """`quality` is paired, query by query: it says worse or better only where the interval leaves zero out."""

    baseline: Baseline
    now: Baseline
    figures: list[FigureChange]
    quality: list[PairedDifference]

    @property
    def worse(self) -> list[str]:
        """What is worse than it was."""
        live = [each.name for each in self.figures if each.change == "worse"]
        return [*live, *(paired.metric for paired in self.quality if paired.high < 0)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline.as_dict(),
            "now": self.now.as_dict(),
            "figures": [asdict(each) for each in self.figures],
            "quality": [asdict(each) for each in self.quality],
            "worse": self.worse,
        }


async def measure(
    connection: Connection, route: Route, *, name: str, seconds: float, judged: str | None, scored: Evaluation | None
) -> Baseline:
    """How the serving index does now. `scored` is of the queries in the folder `judged`."""
    index = route.serving
    found = await read_figures(connection, collection_id=route.collection_id, tenant=None, seconds=seconds)
    own = found.get((index.id, route.arm_of(index.id))) or found.get((index.id, Arm.SERVING))
    live = measured(own or ArmFigures())
    cursor = await connection.execute("SELECT clock_timestamp()")
    row = await cursor.fetchone()
    assert row is not None
    return Baseline(
        name=name,
        at=row[0],
        index=index.id,
        model=index.model.name,
        seconds=seconds,
        requests=own.requests if own is not None else 0,
        figures={figure: live[figure] for figure, _ in _FIGURES},
        quality=Quality(judged=judged or "", means=scored.means, scores=scored.scores) if scored is not None else None,
    )


async def save(connection: Connection, collection_id: int, baseline: Baseline) -> Baseline:
    """One of the same name is replaced."""
    kept = {key: value for key, value in asdict(baseline).items() if key not in ("name", "at", "index", "replaced")}
    cursor = await connection.execute(
        """
        INSERT INTO baselines (collection_id, name, index_id, at, figures) VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (collection_id, name) DO UPDATE
            SET index_id = EXCLUDED.index_id, at = EXCLUDED.at, figures = EXCLUDED.figures
        RETURNING xmax <> 0
        """,
        (collection_id, baseline.name, baseline.index, baseline.at, json.dumps(kept)),
    )
    row = await cursor.fetchone()
    assert row is not None
    return _baseline(baseline.name, baseline.at, baseline.index, kept, replaced=row[0])


async def load(connection: Connection, collection_id: int, name: str | None) -> Baseline:
    """The one of that name, or the latest. Raises NotFoundError."""
    cursor = await connection.execute(
        "SELECT name, at, index_id, figures FROM baselines "
        "WHERE collection_id = %(c)s AND (%(name)s::text IS NULL OR name = %(name)s) ORDER BY at DESC LIMIT 1",
        {"c": collection_id, "name": name},
    )
    row = await cursor.fetchone()
    if row is None:
        which = "no baseline" if name is None else f"no baseline {name!r}"
        raise NotFoundError(which, advice="Make one: reshelve baseline save NAME.")
    return _baseline(*row)


def compare(baseline: Baseline, now: Baseline) -> BaselineComparison:
    """Raises InputError where the judged queries are not the same ones."""
    quality: list[PairedDifference] = []
    if baseline.quality is not None and now.quality is not None:
        before, after = baseline.quality.scores, now.quality.scores
        quality = [paired_difference(metric, before[metric], after[metric]) for metric in before if metric in after]
    figures: list[FigureChange] = []
    for name, more_is_better in _FIGURES:
        old, new = baseline.figures.get(name), now.figures.get(name)
        change = _change(old, new, more_is_better=more_is_better)
        if name == "similarity" and baseline.model != now.model:
            change = "unknown"  # cosines of two models do not compare
        figures.append(FigureChange(name=name, before=old, now=new, change=change))
    return BaselineComparison(baseline=baseline, now=now, figures=figures, quality=quality)


def _change(before: float | None, now: float | None, *, more_is_better: bool) -> Change:
    if before is None or now is None:
        return "unknown"
    if abs(now - before) <= _EQUAL_WITHIN * abs(before):
        return "same"
    return "better" if (now > before) == more_is_better else "worse"


def _baseline(name: str, at: datetime, index: int, kept: Mapping[str, Any], *, replaced: bool = False) -> Baseline:
    quality = cast("dict[str, Any] | None", kept["quality"])
    return Baseline(
        name=name,
        at=at,
        index=index,
        replaced=replaced,
        model=kept["model"],
        seconds=kept["seconds"],
        requests=kept["requests"],
        figures=kept["figures"],
        quality=Quality(**quality) if quality is not None else None,
    )
