"""Figures and foreign text, as they are printed."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """1.2 s, 45 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(octets: float) -> str:
    """In powers of 1024, as PostgreSQL counts."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if octets >= 10 or unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:.1f} TB"


def counted(number: int, noun: str) -> str:
    """1 row, 2 rows. The plural is regular, or `noun` is "index"."""
    plural = "indexes" if noun == "index" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def one_line(text: str, *, most: int | None = None) -> str:
    """Text from documents and providers, safe for a terminal: no escape sequence, no line break, not too long."""
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return flat if most is None or len(flat) <= most else flat[: most - 1].rstrip() + "…"


def printable(text: str) -> str:
    """Text of several lines, safe for a terminal: no escape sequence."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)
