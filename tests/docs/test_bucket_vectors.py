"""The test vectors of docs/concepts.md, by which another program can tell who is on which side of a rollout."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from reshelve.domain.routes import bucket

CONCEPTS = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")


def test_the_published_buckets_are_those_of_the_published_rule_and_of_the_program() -> None:
    vectors = re.findall(r"^\| `(\d+)` \| `([^`]+)` \| ([\d,]+) \|", CONCEPTS, re.MULTILINE)
    assert len(vectors) >= 3
    for salt, unit, published in vectors:
        digest = hashlib.sha256(f"{salt}:{unit}".encode()).digest()
        expected = int(published.replace(",", ""))
        assert int.from_bytes(digest[:8], "big") % 1_000_000 == expected
        assert bucket(salt, unit) == expected
