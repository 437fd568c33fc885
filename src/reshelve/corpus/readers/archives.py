"""Archives unpacked into a folder, within limits. Runs in the child process, as the readers do."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from reshelve.corpus.checks import MAX_ID_BYTES, MIB
from reshelve.errors import DocumentRefused
from reshelve.settings import ReadingSettings

_BLOCK = 256 * 1024
_ALWAYS_ALLOWED = MIB
"""No ratio is too great below this: a small file of one letter compresses a thousandfold."""
_OFFICE = (
    ("word/document.xml", "docx"),
    ("xl/workbook.xml", "an Excel workbook (XLSX)"),
    ("xl/workbook.bin", "an Excel workbook (XLSB)"),
    ("ppt/presentation.xml", "a PowerPoint presentation (PPTX)"),
    ("META-INF/container.xml", "an e-book (EPUB)"),
    ("META-INF/manifest.xml", "an OpenDocument file (ODT, ODS or ODP)"),
)
"""What else is a zip file, by an entry that it has."""
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


class Member(NamedTuple):
    """A file that was unpacked: what it is called in the archive, and what in the folder."""

    name: str
    file: str


class Refused(NamedTuple):
    """A file of the archive that was not."""

    name: str
    reason: str


class OtherFormat(NamedTuple):
    """The zip file is the document itself."""

    format: str


@dataclass(slots=True)
class _Room:
    """What may still be written. `packed` is the size of the archive."""

    settings: ReadingSettings
    packed: int
    written: int = 0

    def take(self, size: int) -> None:
        self.written += size
        if self.written > self.settings.archive_mb * MIB:
            raise _TooMuch(f"the archive holds more than {self.settings.archive_mb} MB (rag.reading.archive_mb)")
        if self.written > max(_ALWAYS_ALLOWED, self.packed * self.settings.archive_ratio):
            ratio = self.settings.archive_ratio
            raise _TooMuch(f"the archive grows more than {ratio:,} times as large (rag.reading.archive_ratio)")


class _TooMuch(Exception):
    pass


def unpack_zip(path: Path, folder: Path, settings: ReadingSettings) -> Iterator[Member | Refused | OtherFormat]:
    """Raises DocumentRefused where nothing of it can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = {info.filename for info in infos}
            for entry, kind in _OFFICE:
                if entry in names and (kind != "an e-book (EPUB)" or "mimetype" in names):
                    if kind == "docx":
                        yield OtherFormat(kind)
                        return
                    raise DocumentRefused(f"it is {kind}, which is not read", advice="Save it as PDF, DOCX or CSV.")
            _refuse_many(len(infos), settings)
            room = _Room(settings, path.stat().st_size)
            for number, info in enumerate(infos):
                if info.is_dir() or _is_hidden(info.filename):
                    continue
                reason = _refusal(info.filename, is_file=not stat.S_ISLNK(info.external_attr >> 16))
                if reason is None and info.flag_bits & 1:
                    reason = "it asks for a password"
                if reason is not None:
                    yield Refused(info.filename, reason)
                    continue
                try:
                    with archive.open(info) as content:
                        yield _written(info.filename, content, folder / str(number), room)
                except _BROKEN as error:
                    yield Refused(info.filename, f"it cannot be unpacked: {error}")
    except _TooMuch as error:
        yield Refused("", f"{error}; what follows was not read")
    except _BROKEN as error:
        raise DocumentRefused(f"the archive is damaged: {error}") from None


def unpack_tar(path: Path, folder: Path, settings: ReadingSettings) -> Iterator[Member | Refused]:
    """Compressed by gzip, bzip2, xz, or not. Raises DocumentRefused where nothing of it can be read."""
    room = _Room(settings, path.stat().st_size)
    seen = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for number, info in enumerate(archive):
                _refuse_many(number + 1, settings)
                seen += 1
                if info.isdir() or _is_hidden(info.name):
                    continue
                reason = _refusal(info.name, is_file=info.isfile())
                content = archive.extractfile(info) if reason is None else None
                if content is None:
                    yield Refused(info.name, reason or "it is no file")
                    continue
                with content:
                    yield _written(info.name, content, folder / str(number), room)
    except _TooMuch as error:
        yield Refused("", f"{error}; what follows was not read")
    except _BROKEN as error:
        if not seen:
            what = "it is a compressed file, and no archive of files" if path.stat().st_size else "the file is empty"
            raise DocumentRefused(f"{what}: {error}") from None
        yield Refused("", f"the archive is damaged: {error}; what follows was not read")


def _refuse_many(entries: int, settings: ReadingSettings) -> None:
    if entries > settings.archive_entries:
        most = settings.archive_entries
        raise DocumentRefused(f"the archive has more than {most:,} entries (rag.reading.archive_entries)")


def _is_hidden(name: str) -> bool:
    """As in a folder: .git, .DS_Store; and what macOS puts beside each file."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in {".", ".."})
        for part in name.replace("\\", "/").split("/")
    )


def _refusal(name: str, *, is_file: bool) -> str | None:
    if not is_file:
        return "it is a link or a device, and no file"
    plain = name.replace("\\", "/")
    path = PurePosixPath(plain)
    if path.is_absolute() or ".." in path.parts or plain[1:2] == ":" or "\0" in name:
        return "its path leads out of the archive"
    if len(name.encode("utf-8", "replace")) > MAX_ID_BYTES // 2:
        return "its path is too long"
    return None


def _written(name: str, content: IO[bytes], target: Path, room: _Room) -> Member:
    with target.open("xb") as file:
        while block := content.read(_BLOCK):
            room.take(len(block))
            file.write(block)
    return Member(name.encode("utf-8", "replace").decode(), target.name)
