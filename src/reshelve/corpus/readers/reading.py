"""Files, folders, patterns and archives, one file after the other."""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from reshelve.corpus.readers.apart import ReadingApart
from reshelve.corpus.readers.formats import ARCHIVES, FORMATS, format_of, known, reader_of
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document, Section
from reshelve.errors import DocumentRefused, InputError
from reshelve.settings import ReadingSettings

_WILD = frozenset("*?[")


def read_documents(
    path: Path,
    *,
    format: str | None = None,
    settings: ReadingSettings | None = None,
    taken: dict[str, Path] | None = None,
) -> Iterator[Document | DocumentRefused]:
    """The documents of a file, of an archive's files, or of a folder's in the order of their names, read as asked for.

    A path that does not exist may be a pattern: `*`, `?`, `[...]`, and `**` for any folders. The format comes from the
    content and the name (`formats.format_of`) unless it is given. Hidden files of folders and archives are passed over.
    A document's id is its file's path below the folder, with `#row` for a row of a table; a title is what the file says
    is its own, or its first heading, or its name without suffix.
    Whoever reads several paths gives the same `taken` to all: the names of files that became documents, each with the
    folder that it was read below. Another file of the same name below its own folder is refused.
    Raises InputError at once when the path does not exist or the format is not known.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown format {format!r}", advice=f"Known formats: {', '.join(FORMATS)}.")
    settings = settings or ReadingSettings()
    if not path.exists():
        matching = [each for each in _matching(path) if each.is_file()]
        if not matching:
            raise InputError(
                f"{path} does not exist", advice=f"Name a file, a folder, or a pattern. Read are {known()}."
            )
        return _Reading(format, settings, _fixed_part(path), taken).files(matching)
    if path.is_dir():
        return _Reading(format, settings, path, taken).files(_files_below(path))
    return _Reading(format, settings, path.parent, taken).alone(path)


def _matching(path: Path) -> list[Path]:
    if not _WILD & set(str(path)):
        return []
    # Path.glob takes no absolute pattern.
    return sorted(Path(found) for found in glob.glob(str(path), recursive=True))  # noqa: PTH207


def _fixed_part(pattern: Path) -> Path:
    """The folders before the first wild one."""
    fixed: list[str] = []
    for part in pattern.parts[:-1]:
        if _WILD & set(part):
            break
        fixed.append(part)
    return Path(*fixed)


class _Reading:
    def __init__(
        self, format: str | None, settings: ReadingSettings, below: Path, taken: dict[str, Path] | None
    ) -> None:
        self._format = format
        self._settings = settings
        self._below = below
        self._taken = taken

    def alone(self, path: Path) -> Iterator[Document | DocumentRefused]:
        with ReadingApart(self._settings) as apart:
            yield from self._file(apart, path, name=path.name, shown="")

    def files(self, paths: Iterable[Path]) -> Iterator[Document | DocumentRefused]:
        with ReadingApart(self._settings) as apart:
            for path in paths:
                name = path.relative_to(self._below).as_posix()
                yield from self._file(apart, path, name=name, shown=name)

    def _file(
        self, apart: ReadingApart, path: Path, *, name: str, shown: str, inside: bool = False
    ) -> Iterator[Document | DocumentRefused]:
        """`shown` names the file in refusals; `inside` an archive, another one is not opened."""
        try:
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or (self._format is not None and not shown)):
                raise DocumentRefused("it is not a regular file")
            found = self._format if self._format is not None and not inside else format_of(path, name=name)
            if found in ARCHIVES and inside:
                raise DocumentRefused("it is an archive inside an archive", advice="Unpack it first.")
            if not FORMATS[found].apart:
                source = Source(path=path, name=name, settings=self._settings)
                items = reader_of(found)(source)
                # The documents of JSON lines have ids of their own.
                for item in items if found == "jsonl" else self._first_of_its_name(name, items):
                    yield item if isinstance(item, Document) else _placed(item, shown)
            elif not stat.S_ISREG(mode):
                raise InputError(f"{found} cannot be read from a stream", advice="Write it to a file first.")
            elif found in ARCHIVES:
                yield from self._archive(apart, path, format=found, name=name, shown=shown)
            else:
                yield from self._apart(apart, path, format=found, name=name, shown=shown)
        except DocumentRefused as refusal:
            yield _placed(refusal, shown)
        except OSError as error:
            if not shown:
                raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
            yield _placed(DocumentRefused(f"it cannot be read: {error.strerror or error}"), shown)

    def _archive(
        self, apart: ReadingApart, path: Path, *, format: str, name: str, shown: str
    ) -> Iterator[Document | DocumentRefused]:
        with tempfile.TemporaryDirectory(prefix="reshelve-") as place:
            folder = Path(place)
            members: list[tuple[str, str]] = []
            try:
                for kind, *said in apart.read(path, format=format, name=name, folder=folder):
                    if kind == "format":
                        yield from self._apart(apart, path, format=said[0], name=name, shown=shown)
                        return
                    if kind == "member":
                        members.append((said[0], said[1]))
                    elif kind == "lost":
                        yield _placed(DocumentRefused(said[1]), _below(shown, said[0]))
                    else:
                        yield _placed(_refusal(said[0]), shown)
            except DocumentRefused as refusal:
                yield _placed(refusal, shown)
            for member, file in sorted(members):
                yield from self._file(
                    apart, folder / file, name=f"{name}/{member}", shown=_below(shown, member), inside=True
                )
                (folder / file).unlink()

    def _apart(
        self, apart: ReadingApart, path: Path, *, format: str, name: str, shown: str
    ) -> Iterator[Document | DocumentRefused]:
        items = _read_apart(apart, path, format=format, name=name)
        for item in items if format == "jsonl" else self._first_of_its_name(name, items):
            yield item if isinstance(item, Document) else _placed(item, shown)

    def _first_of_its_name(
        self, name: str, items: Iterator[Document | DocumentRefused]
    ) -> Iterator[Document | DocumentRefused]:
        """The items, unless another file that gave a document has the name. The same file may be read again."""
        if self._taken is None:
            yield from items
            return
        first = self._taken.get(name, self._below) / name
        if os.path.realpath(first) != os.path.realpath(self._below / name):
            yield DocumentRefused(
                f"it has the same id as {first}, which is read before it: "
                "name the folder that holds both, or rename one, so that their ids differ"
            )
            return
        for item in items:
            if isinstance(item, Document):
                self._taken.setdefault(name, self._below)
            yield item


def _read_apart(apart: ReadingApart, path: Path, *, format: str, name: str) -> Iterator[Document | DocumentRefused]:
    for kind, said in apart.read(path, format=format, name=name):
        if kind == "document":
            sections = tuple(Section(*each) for each in said.pop("sections"))
            yield Document(**said, sections=sections)
        else:
            yield _refusal(said)


def _refusal(said: dict[str, str | int | None]) -> DocumentRefused:
    line = said["line"]
    return DocumentRefused(
        str(said["message"]), line=line if isinstance(line, int) else None, advice=str(said["advice"] or "")
    )


def _below(shown: str, member: str) -> str:
    return "/".join(filter(None, (shown, member)))


def _placed(refusal: DocumentRefused, name: str) -> DocumentRefused:
    """With the name of the file, where several are read."""
    if not name or refusal.file:
        return refusal
    shown = name if name.isprintable() else ascii(name)[1:-1]
    message = f"{shown}: {refusal.message}"
    return DocumentRefused(message, line=refusal.line, advice=refusal.advice, file=shown)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))
