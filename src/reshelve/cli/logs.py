"""Log lines of the command line, on stderr: for people on a terminal, as JSON otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


class _StandardError:
    """Looks stderr up for each line: a progress bar puts its own in place, to draw itself below the lines."""

    def msg(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    log = debug = info = warning = error = critical = fatal = failure = exception = msg


class _ToStructlog(logging.Handler):
    """What libraries say by the standard library's logging takes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name)


def configure_logs(*, level: int) -> None:
    """Lines from `level` on are printed."""
    on_terminal = sys.stderr.isatty()
    renderer: Any = structlog.processors.JSONRenderer()
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if on_terminal:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    processors: list[Any] = [structlog.processors.add_log_level, stamp]
    if not on_terminal:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _StandardError(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=level, handlers=[_ToStructlog()], force=True)
