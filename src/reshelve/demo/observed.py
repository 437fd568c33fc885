"""What the traffic's process reported, and the figures made of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reshelve.demo.facts import Latency, LatencySecond, Moment, Percentiles, Searches, Writes
from reshelve.errors import ReshelveError


class TrafficFailed(ReshelveError):
    code = "demo_traffic"


@dataclass(slots=True)
class Observed:
    """The traffic's process, and its events as they come."""

    process: asyncio.subprocess.Process
    log: Path
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _reading: asyncio.Task[None] | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(cls, *, settings_file: Path, arrivals: Path, data: Path, log: Path) -> Observed:
        """Returns once the first search was answered."""
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "reshelve.demo.traffic",
                str(settings_file),
                str(arrivals),
                str(data),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        observed = cls(process, log)
        observed._reading = asyncio.create_task(observed._read())
        await observed._ready.wait()
        observed._refuse_failure()
        return observed

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "ready":
                self._ready.set()
        await self.process.wait()
        self._ready.set()

    def _refuse_failure(self) -> None:
        if self.process.returncode:
            raise TrafficFailed(
                f"the demo's readers and writers ended with code {self.process.returncode}",
                advice=f"What they said is in {self.log}.",
            )

    async def stop(self) -> None:
        """Ask for the last checks, and wait for them. Raises TrafficFailed if the process failed."""
        assert self.process.stdin is not None
        assert self._reading is not None
        self.process.stdin.close()
        await self._reading
        self._refuse_failure()

    async def abandon(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._reading is not None:
            await self._reading

    def searches(self) -> Searches:
        seen = self._of("search")
        return Searches(
            served=sum(not event["failed"] for event in seen),
            failed=sum(event["failed"] for event in seen),
            mixed=sum(event["mixed"] for event in seen),
        )

    def answered_by(self, model: str, *, since: float) -> tuple[int, int]:
        """Of the searches that ended since that instant of the monotonic clock: by this model, and in all."""
        models = [event["model"] for event in self._of("search") if not event["failed"] and event["at"] >= since]
        return models.count(model), len(models)

    def writes(self) -> Writes:
        """A write counts as lost when it was not found at once; a document that the last look misses, too."""
        made, checked = self._of("write"), self._of("checked")
        kinds = [event["kind"] for event in made]
        missed_at_once = sum(not event["as_written"] for event in made)
        missed_at_last = sum(not event["as_written"] for event in checked)
        return Writes(
            inserted=kinds.count("inserted"),
            updated=kinds.count("updated"),
            deleted=kinds.count("deleted"),
            confirmed=len(made) - missed_at_once,
            lost=missed_at_once + missed_at_last,
        )

    def latency(self, *, origin: float, began: float, ended: float, moments: list[Moment]) -> Latency:
        """Before `began`, up to `ended`, and after it: instants of the monotonic clock, as `origin` is."""
        seen = [(event["at"], event["ms"]) for event in self._of("search") if not event["failed"]]
        seconds: dict[int, list[float]] = {}
        for at, milliseconds in seen:
            seconds.setdefault(int(at - origin), []).append(milliseconds)
        return Latency(
            before=_percentiles([ms for at, ms in seen if at < began]),
            during=_percentiles([ms for at, ms in seen if began <= at < ended]),
            after=_percentiles([ms for at, ms in seen if at >= ended]),
            timeline=[_second(second, seconds[second]) for second in sorted(seconds)],
            moments=moments,
        )

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def _percentiles(milliseconds: Sequence[float]) -> Percentiles:
    if not milliseconds:
        return Percentiles(p50_ms=0.0, p95_ms=0.0)
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Percentiles(p50_ms=float(p50), p95_ms=float(p95))


def _second(second: int, milliseconds: Sequence[float]) -> LatencySecond:
    found = _percentiles(milliseconds)
    return LatencySecond(second=second, p50_ms=found.p50_ms, p95_ms=found.p95_ms, count=len(milliseconds))
