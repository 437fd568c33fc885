"""HTML as Markdown: headings, lists, tables and code stay what they are; scripts, styles and navigation go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reshelve.corpus.checks import MAX_DOCUMENT_BYTES, check_document
from reshelve.corpus.headings import first_heading
from reshelve.corpus.readers.decoding import cleaned, encoding_of, refuse_large
from reshelve.corpus.readers.protocol import Source
from reshelve.domain.documents import Document
from reshelve.errors import DocumentRefused

_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_DECLARED_WITHIN = 4096
_PASSED_OVER = frozenset(
    {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head", "nav", "button", "select"}
)
_BLOCK = re.compile(
    r"""address|article|aside|blockquote|body|caption|center|dd|details|dialog|div|dl|dt|fieldset|figcaption|figure
    |footer|form|h[1-6]|header|hgroup|hr|html|legend|li|main|ol|p|pre|section|summary|table|tbody|td|tfoot|th|thead|tr
    |ul""",
    re.VERBOSE,
)
_CELLS = frozenset({"td", "th"})
_LAYOUT = "h1, h2, h3, h4, h5, h6, pre, table, ul, ol, p + p"
"""In a row, these say that its table lays out the page: the cells are blocks."""
_SPACE = re.compile(r"\s+")


def read(source: Source) -> Iterator[Document]:
    with source.path.open("rb") as stream:
        content = stream.read(4 * MAX_DOCUMENT_BYTES + 1)
    if len(content) > 4 * MAX_DOCUMENT_BYTES:
        raise DocumentRefused("the file is over 40 MB long", advice="Divide it into several pages.")
    declared = _DECLARED.search(content[:_DECLARED_WITHIN])
    encoding = encoding_of(content, declared=declared[1].decode("ascii", "replace") if declared else None)
    yield document_of(content.decode(encoding, errors="replace"), source=source, format="html")


def document_of(html: str, *, source: Source, format: str) -> Document:
    """Called by the page's title, or by its first heading, or by its file."""
    title, text = converted(html)
    if not text:
        raise DocumentRefused("there is no text in it")
    refuse_large(len(text))
    document = Document(
        external_id=source.name, title=title or first_heading(text) or source.stem, content=text, format=format
    )
    check_document(document)
    return document


def converted(html: str) -> tuple[str, str]:
    """The title, and the body as Markdown."""
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    try:
        tree = LexborHTMLParser(cleaned(html))
    except SelectolaxError as error:  # there is no HTML that cannot be parsed, except for want of memory
        raise MemoryError from error
    head = tree.css_first("head > title")
    title = _SPACE.sub(" ", head.text()).strip() if head is not None else ""
    page = _Page()
    if tree.body is not None:
        for node, entered in _walk(tree.body):
            page.enter(node) if entered else page.leave(node)
    return title, page.text()


def _walk(root: Any) -> Iterator[tuple[Any, bool]]:
    """Every node when it begins and when it ends, without recursion: a page may be nested as deep as it is long."""
    node = root
    while True:
        yield node, True
        child = None if node.tag in _PASSED_OVER else node.child
        if child is not None:
            node = child
            continue
        yield node, False
        while node.mem_id != root.mem_id and node.next is None:
            node = node.parent
            yield node, False
        if node.mem_id == root.mem_id:
            return
        node = node.next


class _Page:
    """Takes the nodes of a page one after the other, and gives the text."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._line: list[str] = []
        self._lists: list[list[int] | None] = []
        """Open lists: the last number given, or None for bullets."""
        self._item = ""
        self._fences = 0
        self._cells: list[str] | None = None
        self._rows = 0

    def enter(self, node: Any) -> None:
        match node.tag:
            case "-text":
                text = node.text(deep=False)
                self._line.append(text if self._fences else _SPACE.sub(" ", text))
            case "br":
                self._line.append("\n")
            case "img":
                self._line.append(node.attributes.get("alt") or "")
            case "pre":
                self._flush()
                self._fences += 1
            case "ul" | "ol":
                self._flush()
                self._lists.append([0] if node.tag == "ol" else None)
            case "li":
                self._flush()
                self._item = self._marker()
            case "table":
                self._flush()
                self._rows = 0
            case "tr":
                self._flush()
                if node.css_first(_LAYOUT) is None:
                    self._cells = []
                else:
                    self._rows = 0
            case tag if self._cells is None and _BLOCK.fullmatch(tag):
                self._flush()
            case _:
                pass

    def _marker(self) -> str:
        numbers = self._lists[-1] if self._lists else None
        if numbers is None:
            return "- "
        numbers[0] += 1
        return f"{numbers[0]}. "

    def leave(self, node: Any) -> None:
        tag = node.tag
        if tag in _CELLS and self._cells is not None:
            self._cells.append(self._taken().replace("|", "\\|").replace("\n", " "))
        elif tag == "tr" and self._cells is not None:
            self._row(self._cells)
            self._cells = None
        elif tag == "pre":
            self._flush()
            self._fences = max(0, self._fences - 1)
        elif tag in {"ul", "ol"}:
            self._flush()
            if self._lists:
                self._lists.pop()
        elif len(tag) == 2 and tag[0] == "h" and tag[1] in "123456" and self._cells is None:
            heading = self._taken().replace("\n", " ")
            if heading:
                self._blocks.append(f"{'#' * int(tag[1])} {heading}")
        elif _BLOCK.fullmatch(tag):
            if self._cells is None:
                self._flush()
            else:
                self._line.append(" ")

    def _row(self, cells: list[str]) -> None:
        if not any(cells):
            return
        lines = [f"| {' | '.join(cells)} |"]
        if self._rows == 0:
            lines.append("|" + " --- |" * len(cells))
            self._blocks.append("\n".join(lines))
        else:
            self._blocks[-1] += "\n" + lines[0]
        self._rows += 1

    def _taken(self) -> str:
        """The line as it stands, with white space as a browser shows it."""
        text, self._line = "".join(self._line), []
        return "\n".join(filter(None, (" ".join(part.split()) for part in text.split("\n"))))

    def _flush(self) -> None:
        if self._fences:
            text, self._line = "".join(self._line).strip("\n").rstrip(), []
            if text:
                self._blocks.append(f"```\n{text}\n```")
            return
        text = self._taken()
        if not text:
            return
        indent = "  " * max(0, len(self._lists) - 1)
        marked = indent + self._item + text if self._lists else text
        tight = bool(self._item) and bool(self._lists) and bool(self._blocks) and _is_item(self._blocks[-1])
        self._item = ""
        if tight:
            self._blocks[-1] += "\n" + marked
        else:
            self._blocks.append(marked)

    def text(self) -> str:
        self._flush()
        return "\n\n".join(self._blocks).strip()


def _is_item(block: str) -> bool:
    return bool(re.match(r"\s*(- |\d+\. )", block))
