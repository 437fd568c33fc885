"""One run of one command: it is carried out, its answer is printed, and every way it can end has an exit code."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from reshelve.errors import BudgetReached, GateHeld, ReshelveError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from reshelve.cli.progress import Progress
    from reshelve.library import Connecting
    from reshelve.settings import Settings

OK, FAILED, USAGE, HELD, PARTLY, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
"""Exit codes: done; an error; a wrong command line; a gate held or a proof failed; done in part; Ctrl-C; SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Global:
    """The options that stand before the command."""

    config: Path | None
    quiet: bool
    verbose: bool
    debug: bool

    @property
    def log_level(self) -> int:
        return 10 if self.debug else 20 if self.verbose else 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: `document` for --json; `show`, and then `lines` (what rich prints), for people."""

    document: Mapping[str, Any]
    show: Callable[[Console], None] | None = None
    lines: Sequence[RenderableType] = ()
    code: int = OK


@dataclass(frozen=True, kw_only=True)
class Session:
    options: Global
    as_json: bool

    @property
    def settings(self) -> Settings:
        from reshelve.settings import load_settings

        return load_settings(self.options.config)

    def library(self, *, worker: bool = False) -> Connecting:
        """With `worker` it takes changes in while the command runs; reading commands leave that to others."""
        from reshelve.library import connect

        return connect(self.settings, worker=worker)

    def progress(self) -> Progress:
        from reshelve.cli.progress import open_progress

        return open_progress(quiet=self.options.quiet)


Work = Callable[[Session], Awaitable[Answer]]


def perform(context: typer.Context, work: Work, *, as_json: bool = False, after_ctrl_c: str = "") -> None:
    """Run `work` and leave the process with its exit code. `after_ctrl_c` says how to go on after an interruption."""
    conclude(
        context,
        lambda session: asyncio.run(_until_told(work(session))),
        as_json=as_json,
        after_ctrl_c=after_ctrl_c,
    )


def conclude(
    context: typer.Context, run: Callable[[Session], Answer | None], *, as_json: bool = False, after_ctrl_c: str = ""
) -> None:
    """`perform` for what sees to its own event loop and signals. None: everything was printed already."""
    from reshelve.cli.logs import configure_logs

    options: Global = context.obj
    configure_logs(level=options.log_level)
    session = Session(options=options, as_json=as_json)
    try:
        answer = run(session)
        if answer is not None:
            print_answer(answer, as_json=as_json)
    except ReshelveError as error:
        if options.debug:
            _print_trace()
        print_error(error.code, error.message, advice=error.advice, as_json=as_json)
        raise typer.Exit(HELD if isinstance(error, GateHeld | BudgetReached) else FAILED) from None
    except (KeyboardInterrupt, asyncio.CancelledError) as stopped:
        by_hand = isinstance(stopped, KeyboardInterrupt)
        print_error("interrupted", "stopped", advice=after_ctrl_c, as_json=as_json)
        raise typer.Exit(INTERRUPTED if by_hand else TERMINATED) from None
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing may be flushed into the pipe at exit either.
        sys.stdout = None
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if options.debug:
            _print_trace()
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "" if options.debug else "This should not happen. `reshelve --debug ...` shows where it comes from."
        print_error("unexpected", said, advice=advice, as_json=as_json)
        raise typer.Exit(FAILED) from None
    raise typer.Exit(OK if answer is None else answer.code)


async def _until_told(work: Awaitable[Answer]) -> Answer:
    """SIGTERM ends it as Ctrl-C does: cancelled from within, so that leases are given back and the library closed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def print_answer(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print_json(answer.document)
        return
    from rich.console import Console

    # Into a pipe or a file rich would fold lines at 80 columns.
    width = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty(), width=width)
    if answer.show is not None:
        answer.show(console)
    for line in answer.lines:
        console.print(line)
    sys.stdout.flush()


def print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(_plain(document), indent=2, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """Only what JSON knows: dates and ids as strings, NaN and infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast("Sequence[Any]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return str(value)


def print_error(code: str, message: str, *, advice: str, as_json: bool) -> None:
    """One red line and the advice on stderr; with `as_json` a document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "message": message, "advice": advice}})
        return
    red, plain = ("\x1b[31m", "\x1b[0m") if _coloured() else ("", "")
    first, _, rest = _visible(message).partition("\n")
    print(f"{red}error: {first}{plain}", file=sys.stderr)
    for more in (rest, _visible(advice)):
        if more:
            print(more, file=sys.stderr)
    sys.stderr.flush()


def _visible(text: str) -> str:
    """Without escape sequences: messages quote files and providers."""
    plain = text.replace("\t", "    ")
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in plain)


def _coloured() -> bool:
    import os

    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _print_trace() -> None:
    import traceback

    traceback.print_exc()
