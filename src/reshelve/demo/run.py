"""The demonstration itself: the same calls that a person's program would make, one after the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reshelve
from reshelve.database import embedded
from reshelve.demo.facts import (
    DemoFacts,
    Machine,
    Moment,
    PlanKept,
    Quality,
    Step,
    Switch,
    Verification,
)
from reshelve.demo.observed import Observed
from reshelve.evaluation.judged import Judged, load_judged_directory
from reshelve.evaluation.paired import PairedDifference, paired_difference
from reshelve.migrations.engine import Happening
from reshelve.migrations.plan import Plan

FROM_MODEL = "hashing-512"
TO_MODEL = "minilm-l6-v2"
DATA = Path(__file__).parent / "data"
_CALM_SECONDS = 4.0
_SHARES = (10, 50)
"""Percent of the users, on the second way to the new model."""
_COMPARED = ("nDCG@10", "R@100")

OnStep = Callable[[str, str], None]
"""Told the step that begins, and, while it goes on, how far it is."""


@dataclass(slots=True)
class _Stage:
    directory: Path
    on_step: OnStep
    origin: float = field(default_factory=time.monotonic)
    steps: list[Step] = field(default_factory=list[Step])
    moments: list[Moment] = field(default_factory=list[Moment])

    @property
    def settings_file(self) -> Path:
        return self.directory / "rag.toml"

    def declare(self, model: str) -> None:
        """Write the settings file: what a person would edit."""
        self.settings_file.write_text(
            f'[rag]\ncollection = "scifact"\n\n[rag.database]\ndirectory = "."\n\n[rag.embedding]\nmodel = "{model}"\n',
            encoding="utf-8",
        )

    def library(self) -> reshelve.Connecting:
        return reshelve.connect(self.settings_file)

    @asynccontextmanager
    async def step(self, name: str) -> AsyncGenerator[list[str]]:
        """Time a step. What the block puts into the list becomes its note."""
        self.on_step(name, "")
        started = time.monotonic()
        note: list[str] = []
        yield note
        took = time.monotonic() - started
        self.steps.append(Step(name=name, started_at=started - self.origin, seconds=took, note="; ".join(note)))

    def mark(self, label: str, serving: str) -> None:
        self.moments.append(Moment(second=time.monotonic() - self.origin, label=label, serving=serving))

    def listen(self, event: Happening) -> None:
        if event.rows is not None and event.of_rows:
            self.on_step(event.doing, f"{event.rows:,} of {event.of_rows:,}")


async def run_demo(directory: Path, *, on_step: OnStep) -> DemoFacts:
    """Run it in `directory`, which is emptied first. Its server is stopped at the end, and its data stay."""
    await asyncio.to_thread(_emptied, directory)
    stage = _Stage(directory, on_step)
    stage.declare(FROM_MODEL)
    observed: Observed | None = None
    try:
        await _first_model(stage)
        observed = await Observed.start(
            settings_file=stage.settings_file,
            arrivals=DATA / "arrivals.jsonl",
            data=DATA,
            log=directory / "traffic.log",
        )
        return await _moved(stage, observed)
    finally:
        if observed is not None:
            await observed.abandon()
        await asyncio.to_thread(embedded.stop, directory)


def _emptied(directory: Path) -> None:
    if directory.exists():
        embedded.stop(directory)
        shutil.rmtree(directory)
    directory.mkdir(parents=True)


async def _first_model(stage: _Stage) -> None:
    async with stage.step("start") as note, stage.library():
        note.append("an embedded PostgreSQL with pgvector")
    async with stage.step("ingest") as note, stage.library() as library:
        report = await library.ingest(DATA / "corpus.jsonl")
        note.append(f"{report.added:,} abstracts, {report.chunks_added:,} chunks, embedded by {FROM_MODEL}")


async def _moved(stage: _Stage, observed: Observed) -> DemoFacts:
    async with stage.step("serve") as note:
        await asyncio.sleep(_CALM_SECONDS)
        note.append(f"readers and writers at work on {FROM_MODEL}")
    began = time.monotonic()
    stage.declare(TO_MODEL)
    async with stage.library() as library:
        async with stage.step("plan") as note:
            plan = await library.plan()
            note.append(f"{plan.rows:,} rows, {plan.tokens:,} tokens, ${plan.cost_usd:.2f}, about {plan.seconds:.0f} s")
        applied = await _applied(stage, library)
        first = await _switch(stage, library, "cutover", TO_MODEL)
        back = await _switch(stage, library, "rollback", FROM_MODEL)
        async with stage.step("apply again") as note:
            again = await library.apply()
            note.append(f"{again.embedded_rows:,} rows embedded, {again.reused_rows:,} reused; verified again")
        for percent in _SHARES:
            await _roll_out(stage, library, observed, percent)
        second = await _switch(stage, library, "second cutover", TO_MODEL, already=again.embedded_rows)
        ended = time.monotonic()
        async with stage.step("serve on") as note:
            await asyncio.sleep(_CALM_SECONDS)
            note.append(f"readers and writers at work on {TO_MODEL}")
        async with stage.step("last look") as note:
            await observed.stop()
            note.append("every document written is looked for once more")
        quality = await _quality(stage, library)
        status = await library.status()
        machine = await _machine(library)
    return DemoFacts(
        machine=machine,
        from_model=FROM_MODEL,
        to_model=TO_MODEL,
        documents=status.documents,
        chunks=status.chunks,
        steps=stage.steps,
        searches=observed.searches(),
        writes=observed.writes(),
        latency=observed.latency(origin=stage.origin, began=began, ended=ended, moments=stage.moments),
        verification=applied.verification,
        quality=quality,
        switches=[first, back, second],
        plan=_kept(plan, applied.seconds),
    )


@dataclass(frozen=True, slots=True)
class _Applied:
    verification: Verification
    seconds: float


async def _applied(stage: _Stage, library: reshelve.Library) -> _Applied:
    """The way to the proof; its steps' times are those of the journal."""
    started, offset = time.monotonic(), time.monotonic() - stage.origin
    stage.on_step("apply", "")
    migration = await library.apply(on_event=stage.listen)
    status = await library.status()
    assert status.migration is not None
    from datetime import datetime

    entries = [
        (datetime.fromisoformat(entry["at"]), entry["after"])
        for entry in status.migration.journal
        if entry["event"] in ("planned", "transition", "verified")
    ]
    notes = {
        "planned": "the new index registered, and fed from then on",
        "preparing": "older transactions waited for, ranges divided",
        "backfilling": f"{migration.embedded_rows:,} rows embedded, {migration.reused_rows:,} reused",
        "building": "the HNSW graph",
        "verifying": _proof_note(migration.verification or {}),
    }
    names = {"planned": "register", "preparing": "prepare", "backfilling": "backfill", "building": "build"}
    for (at, state), (until, _) in itertools.pairwise(entries):
        stage.steps.append(
            Step(
                name=names.get(state, "verify"),
                started_at=offset + (at - entries[0][0]).total_seconds(),
                seconds=(until - at).total_seconds(),
                note=notes[state],
            )
        )
    return _Applied(_verification(migration.verification or {}), time.monotonic() - started)


def _proof_note(proof: dict[str, Any]) -> str:
    return (
        f"{proof['entries']:,} rows equal, checksum {proof['index_checksum']}, recall@10 {proof['ann_recall']:.3f}, "
        f"passes {proof['passes']}"
    )


def _verification(proof: dict[str, Any]) -> Verification:
    return Verification(
        rows=proof["entries"],
        missing=proof["missing"],
        extra=proof["extra"],
        flawed=proof["flawed"],
        repaired=proof["repaired"],
        checksum=proof["index_checksum"],
        sample_cosine=proof["sample_cosine"],
        ann_recall=proof["ann_recall"],
    )


async def _roll_out(stage: _Stage, library: reshelve.Library, observed: Observed, percent: int) -> None:
    """The same users stay on the new model, and others join them."""
    async with stage.step(f"rollout {percent} %") as note:
        await library.rollout(percent)
        began = time.monotonic()
        await asyncio.sleep(_CALM_SECONDS)
        new, searches = observed.answered_by(TO_MODEL, since=began)
        note.append(f"{new} of {searches} searches answered by {TO_MODEL}, the others by {FROM_MODEL}")


async def _switch(
    stage: _Stage, library: reshelve.Library, name: str, serving: str, *, already: int | None = None
) -> Switch:
    """`already` are the rows that were embedded on the way to this switch, where that has to be none."""
    async with stage.step(name) as note:
        before = await library.status()
        after = await (library.rollback() if name == "rollback" else library.cutover())
        stage.mark(name, serving)
        status = await library.status()
        assert status.migration is not None
        assert before.migration is not None
        facts = [entry["facts"] for entry in status.migration.journal if entry["event"] == "switched"][-1]
        embedded_rows = after.embedded_rows - before.migration.embedded_rows + (already or 0)
        note.append(f"switched in {facts['switch_ms']:.1f} ms, {embedded_rows} rows embedded for it")
    await asyncio.sleep(_CALM_SECONDS / 2)
    return Switch(
        name=name,
        switch_ms=facts["switch_ms"],
        re_embedded_rows=embedded_rows,
        drained_rows=facts["drained_changes"],
    )


async def _quality(stage: _Stage, library: reshelve.Library) -> Quality:
    """Both indexes are live and hold the same documents: each judged query is asked of both."""
    async with stage.step("evaluate") as note:
        judged: Judged = load_judged_directory(DATA)
        status = await library.status()
        old, new = (
            next(index.id for index in status.indexes if index.model == model) for model in (FROM_MODEL, TO_MODEL)
        )
        before = await library.evaluate(judged, index=old)
        after = await library.evaluate(judged, index=new)
        differences: list[PairedDifference] = [
            paired_difference(metric, before.scores[metric], after.scores[metric]) for metric in _COMPARED
        ]
        note.append(f"{len(judged.queries)} judged queries asked of both indexes")
    return Quality(before=before.means, after=after.means, differences=differences)


async def _machine(library: reshelve.Library) -> Machine:
    async with library.backends.database.service() as connection:
        row = await (await connection.execute("SHOW server_version")).fetchone()
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        python=platform.python_version(),
        postgres=row[0] if row else "?",
    )


def _kept(plan: Plan, seconds: float) -> PlanKept:
    return PlanKept(tokens=plan.tokens, dollars=plan.cost_usd, estimated_seconds=plan.seconds, actual_seconds=seconds)
