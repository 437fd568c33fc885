"""The headings of a Markdown text, as CommonMark defines them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_MOST_CHARACTERS = 200
"""Of a heading in a path: more is a paragraph that was marked as one."""


class Heading(NamedTuple):
    """`start` is where its line begins, in code points; `level` is 1 to 6."""

    start: int
    level: int
    text: str


def headings(text: str) -> Iterator[Heading]:
    """Those outside code fences and front matter. Lines end with `\\n`."""
    at = _after_front_matter(text)
    fence = before = ""
    before_at = at
    for line in text[at:].splitlines(keepends=True):
        start, at = at, at + len(line)
        line = line.rstrip("\r\n")
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if mark:
            fence, before = mark[1], ""
            continue
        heading = _HEADING.match(line)
        if heading and heading[2].strip("# \t"):
            yield Heading(start, len(heading[1]), heading[2].strip())
            before = ""
        elif before and (underline := _UNDERLINE.match(line)):
            yield Heading(before_at, 1 if underline[1][0] == "=" else 2, before)
            before = ""
        else:
            before, before_at = _paragraph(line), start


def _paragraph(line: str) -> str:
    """The line, if an underline below would make it a heading."""
    return "" if line.startswith(("    ", "\t", ">", "- ", "* ", "|", "#")) else line.strip()


def first_heading(text: str) -> str | None:
    found = next(headings(text), None)
    return found.text if found else None


class HeadingPaths:
    """The headings above each place of a text, the outermost first."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = []
        above: list[Heading] = []
        for heading in headings(text):
            above = [each for each in above if each.level < heading.level] + [heading]
            self._starts.append(heading.start)
            self._paths.append(tuple(each.text[:_MOST_CHARACTERS] for each in above))

    def at(self, place: int) -> Sequence[str]:
        found = bisect_right(self._starts, place)
        return self._paths[found - 1] if found else ()


def _after_front_matter(text: str) -> int:
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        return 0
    at = len(lines[0])
    for line in lines[1:]:
        at += len(line)
        if line.rstrip() in {"---", "..."}:
            return at
    return 0
