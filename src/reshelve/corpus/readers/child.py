"""The process that reads files of formats that can be made to harm a reader. Started by `apart`, and limited here.

It takes one JSON line a file on standard input, and answers on standard output with frames: four bytes of length, then
JSON, a list of items. An item is ["document", {...}], ["refused", {...}], ["member", name, file], ["lost", name,
reason], ["format", name]; the last one is ["end"].
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from reshelve.corpus.readers.archives import Member, OtherFormat, unpack_tar, unpack_zip
from reshelve.corpus.readers.formats import reader_of
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused
from reshelve.settings import ReadingSettings

OUT_OF_MEMORY = 77
"""The exit code."""
_ITEMS_A_FRAME = 64
_CHARACTERS_A_FRAME = 1024**2
_Item = list[Any]


def main() -> None:
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in asked:
        request = json.loads(line)
        settings = ReadingSettings.model_validate(request["settings"])
        _limit(settings)
        try:
            _send(answers, _answers(request, settings))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except BrokenPipeError:
            os._exit(0)


def _limit(settings: ReadingSettings) -> None:
    """Time is counted from now on. What a platform does not limit, the parent's clock still does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + settings.timeout_seconds)
    size = settings.memory_mb * 1024**2
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, settings.archive_mb * 1024**2),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _answers(request: dict[str, Any], settings: ReadingSettings) -> Iterator[_Item]:
    path = Path(request["path"])
    try:
        if request["format"] in {"zip", "tar"}:
            unpack = unpack_zip if request["format"] == "zip" else unpack_tar
            for found in unpack(path, Path(request["folder"]), settings):
                match found:
                    case Member():
                        yield ["member", *found]
                    case OtherFormat():
                        yield ["format", *found]
                    case _:
                        yield ["lost", *found]
        else:
            source = Source(path=path, name=request["name"], settings=settings)
            for document in reader_of(request["format"])(source):
                yield _refused(document) if isinstance(document, DocumentRefused) else _item(document)
    except DocumentRefused as refusal:
        yield _refused(refusal)
    except OSError as error:
        yield _refused(DocumentRefused(f"it cannot be read: {error.strerror or error}"))
    except (MemoryError, BrokenPipeError):
        raise
    except Exception as error:  # a reader's fault must cost one file, and not those that follow
        yield _refused(DocumentRefused(f"reading it failed: {type(error).__name__}: {error!s:.200}"))


def _refused(refusal: DocumentRefused) -> _Item:
    return ["refused", {"message": refusal.message, "line": refusal.line, "advice": refusal.advice}]


def _item(document: Document) -> _Item:
    return [
        "document",
        {
            "external_id": document.external_id,
            "title": document.title,
            "content": document.content,
            "metadata": document.metadata,
            "format": document.format,
            "sections": document.sections,
        },
    ]


def _send(stream: BinaryIO, items: Iterable[_Item]) -> None:
    frame: list[_Item] = []
    size = 0
    for item in items:
        frame.append(item)
        size += len(item[1]["content"]) if item[0] == "document" else 0
        if len(frame) >= _ITEMS_A_FRAME or size >= _CHARACTERS_A_FRAME:
            _write(stream, frame)
            frame, size = [], 0
    _write(stream, [*frame, ["end"]])


def _write(stream: BinaryIO, frame: list[_Item]) -> None:
    # Lone surrogates do not travel as UTF-8, and checks refuse them by name: so escaped.
    content = json.dumps(frame).encode()
    stream.write(struct.pack(">I", len(content)) + content)
    stream.flush()


if __name__ == "__main__":
    main()
