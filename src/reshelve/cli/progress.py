"""How far a long command is: bars on a terminal, a line every few seconds elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from reshelve.cli.words import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

_WINDOW_SECONDS = 10.0
_NOTE_SECONDS = 3.0


class Pace:
    """Units a second over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, done: int, *, at: float) -> None:
        """`at` is in seconds, on any clock that only goes forward."""
        self._seen.append((at, done))
        while len(self._seen) > 2 and self._seen[1][0] < at - _WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        if len(self._seen) < 2:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    def describe(self, done: int, total: int | None, unit: str) -> str:
        """45 of 100 rows · 10/s · 5.5 s left."""
        parts = [f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"]
        if self.rate is not None:
            parts.append(f"{self.rate:,.0f}/s" if self.rate >= 10 else f"{self.rate:.1f}/s")
            if total is not None and total > done:
                parts.append(f"{duration((total - done) / self.rate)} left")
        return " · ".join(parts)


class Progress(Protocol):
    """A context manager. `step` names what is under way; `done` of `total` say how far it is, where that is known."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(
        self,
        step: str,
        *,
        doing: str = "",
        done: int | None = None,
        total: int | None = None,
        unit: str = "rows",
    ) -> None: ...


class Silence:
    """For --quiet."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(
        self, step: str, *, doing: str = "", done: int | None = None, total: int | None = None, unit: str = "rows"
    ) -> None:
        return


class Notes:
    """Lines on stderr: one for each thing that begins, and one every few seconds about how far it is."""

    def __init__(self) -> None:
        self._last = ("", "")
        self._noted_at = 0.0
        self._pace: dict[str, Pace] = {}

    def __enter__(self) -> Notes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(
        self, step: str, *, doing: str = "", done: int | None = None, total: int | None = None, unit: str = "rows"
    ) -> None:
        now = time.monotonic()
        if done is None:
            news = step != self._last[0] or (doing != self._last[1] and now - self._noted_at >= _NOTE_SECONDS)
            if news:
                self._say(f"{step}: {doing}" if doing else step, now)
                self._last = (step, doing)
            return
        pace = self._pace.setdefault(step, Pace())
        pace.add(done, at=now)
        if now - self._noted_at >= _NOTE_SECONDS:
            self._say(f"{step}: {_words(pace.describe(done, total, unit), doing)}", now)

    def _say(self, line: str, now: float) -> None:
        self._noted_at = now
        print(line, file=sys.stderr, flush=True)


class Bars:
    """One bar a step, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
        )
        self._tasks: dict[str, tuple[TaskID, Pace]] = {}
        self._current: str | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._bars.stop()

    def show(
        self, step: str, *, doing: str = "", done: int | None = None, total: int | None = None, unit: str = "rows"
    ) -> None:
        if step != self._current:
            self._finish()
            self._current = step
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=None, words=""), Pace()
        task, pace = self._tasks[step]
        if done is None:
            self._bars.update(task, words=doing)
            return
        pace.add(done, at=time.monotonic())
        words = _words(pace.describe(done, total, unit), doing)
        self._bars.update(task, completed=done, total=total, words=words)

    def _finish(self) -> None:
        """What is known to be whole keeps its count; of the others the last words would be no longer true."""
        if self._current is None:
            return
        task = self._bars.tasks[self._bars.task_ids.index(self._tasks[self._current][0])]
        words: str = task.fields["words"] if task.finished else ""
        self._bars.update(task.id, total=1, completed=1, words=words)


def _words(how_far: str, doing: str) -> str:
    return f"{how_far} · {doing}" if doing else how_far


def open_progress(*, quiet: bool) -> Progress:
    if quiet:
        return Silence()
    return Bars() if sys.stderr.isatty() else Notes()
