"""A child process that reads files, watched by the clock: what goes wrong in it is the refusal of one file."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from reshelve.corpus.readers.child import OUT_OF_MEMORY
from reshelve.errors import DocumentRefused
from reshelve.settings import ReadingSettings

_LARGEST_FRAME = 256 * 1024**2
_END = ["end"]
_PROGRAM = "from reshelve.corpus.readers.child import main; main()"


class ReadingApart:
    """One child serves file after file. It is started when it is first needed, and again when it has ended."""

    def __init__(self, settings: ReadingSettings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ReadingApart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def read(self, path: Path, *, format: str, name: str, folder: Path | None = None) -> Iterator[list[Any]]:
        """The child's items for this file. `folder` is where an archive is unpacked to.

        Raises DocumentRefused where it takes too long or too much memory, or ends the child. The time that the caller
        takes for an item does not count.
        """
        child = self._running()
        assert child.stdin is not None
        request = {
            "path": str(path.resolve()),
            "format": format,
            "name": name,
            "folder": str(folder),
            "settings": self._settings.model_dump(),
        }
        left = self._settings.timeout_seconds
        ended = False
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            while not ended:
                began = time.monotonic()
                items = self._frame(child, began + left)
                left -= time.monotonic() - began
                for item in items:
                    if item == _END:
                        ended = True
                    else:
                        yield item
        except (EOFError, BrokenPipeError):
            raise DocumentRefused(self._why(child)) from None
        finally:
            if not ended:
                self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            # Its own path: the child must find the same program, and nothing of the environment is its business.
            environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"}
            self._child = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        return self._child

    def _frame(self, child: subprocess.Popen[bytes], deadline: float) -> list[Any]:
        (size,) = struct.unpack(">I", self._bytes(child, 4, deadline))
        if size > _LARGEST_FRAME:
            raise DocumentRefused(f"what was read from it is {size / 1024**2:,.0f} MB long")
        return json.loads(self._bytes(child, size, deadline))

    def _bytes(self, child: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        content = bytearray()
        while len(content) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise DocumentRefused(self._too_slow())
            some = os.read(descriptor, min(size - len(content), 1024**2))
            if not some:
                raise EOFError
            content += some
        return bytes(content)

    def _too_slow(self) -> str:
        return f"reading it takes more than {self._settings.timeout_seconds:g} s (rag.reading.timeout_seconds)"

    def _why(self, child: subprocess.Popen[bytes]) -> str:
        code = child.wait()
        if code == OUT_OF_MEMORY:
            return f"reading it takes more than {self._settings.memory_mb} MB of memory (rag.reading.memory_mb)"
        if code == -signal.SIGXCPU:
            return self._too_slow()
        by = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the reader did not survive it ({by}): it is damaged, or needs over {self._settings.memory_mb} MB"

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        child.wait()
