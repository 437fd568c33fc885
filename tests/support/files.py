"""Files of formats that no standard library writes, as small as they can be."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
_PERMISSIONS = -4
_FILE_ID = b"0123456789abcdef"


def pdf(pages: Sequence[str], *, title: str = "", owner: str | None = None, user: str = "") -> bytes:
    """A PDF with these lines on its pages; encrypted (RC4, 40 bits; PDF 1.7, 7.6) where there is an `owner`."""
    padded = _padded(user)
    owners = _rc4(hashlib.md5(_padded(owner or user)).digest()[:5], padded)
    key = hashlib.md5(padded + owners + _PERMISSIONS.to_bytes(4, "little", signed=True) + _FILE_ID).digest()[:5]

    def sealed(content: bytes, number: int) -> bytes:
        if owner is None:
            return content
        return _rc4(hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], content)

    first = 5
    kids = " ".join(f"{first + 2 * at} 0 R" for at in range(len(pages)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: b"<< /Title <" + sealed(title.encode("latin-1"), 4).hex().encode() + b"> >>",
    }
    for at, text in enumerate(pages):
        page, content = first + 2 * at, first + 2 * at + 1
        lines = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
        drawn = sealed(f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode("latin-1"), content)
        objects[page] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {content} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        ).encode()
        objects[content] = f"<< /Length {len(drawn)} >>\nstream\n".encode() + drawn + b"\nendstream"
    extra = b""
    if owner is not None:
        users = _rc4(key, _PADDING)
        extra = b" /Encrypt << /Filter /Standard /V 1 /R 2 /O <%b> /U <%b> /P %d >>" % (
            owners.hex().encode(),
            users.hex().encode(),
            _PERMISSIONS,
        )
    return _written(objects, extra)


def _written(objects: dict[int, bytes], extra: bytes) -> bytes:
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places: list[int] = []
    for number, content in sorted(objects.items()):
        places.append(out.tell())
        out.write(b"%d 0 obj\n" % number + content + b"\nendobj\n")
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    name = _FILE_ID.hex().encode()
    out.write(b"trailer << /Size %d /Root 1 0 R /Info 4 0 R /ID [<%b><%b>]" % (len(objects) + 1, name, name))
    out.write(extra + b" >>\nstartxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def _padded(password: str) -> bytes:
    return (password.encode("latin-1") + _PADDING)[:32]


def _rc4(key: bytes, content: bytes) -> bytes:
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
_RELATIONS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1"
 Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>
</Relationships>"""
_STYLES = f"""<?xml version="1.0"?><w:styles xmlns:w="{_WORD}"><w:style w:type="paragraph" w:styleId="H1">
<w:name w:val="heading 1"/></w:style></w:styles>"""


def docx(paragraphs: Sequence[str], table: Sequence[Sequence[str]] = ()) -> bytes:
    """A Word document. A paragraph that begins with "# " is a heading."""

    def paragraph(text: str) -> str:
        style = '<w:pPr><w:pStyle w:val="H1"/></w:pPr>' if text.startswith("# ") else ""
        return f"<w:p>{style}<w:r><w:t>{text.removeprefix('# ')}</w:t></w:r></w:p>"

    rows = "".join(f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in row)}</w:tr>" for row in table)
    body = "".join(map(paragraph, paragraphs)) + (f"<w:tbl>{rows}</w:tbl>" if rows else "")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("[Content_Types].xml", _TYPES)
        archive.writestr("_rels/.rels", _RELATIONS)
        archive.writestr("word/styles.xml", _STYLES)
        archive.writestr(
            "word/document.xml",
            f'<?xml version="1.0"?><w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>',
        )
        archive.writestr(
            "word/_rels/document.xml.rels",
            _RELATIONS.replace(
                "officeDocument/2006/relationships/officeDocument", "officeDocument/2006/relationships/styles"
            ).replace("word/document.xml", "styles.xml"),
        )
    return out.getvalue()
