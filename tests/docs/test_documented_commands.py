"""The commands of the README and the quickstart run, in the order in which they stand, with the files they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reshelve.database import embedded

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NOT_HERE = {"make", "git", "pip"}
"""They install, or run this very test."""


@dataclass(frozen=True)
class Shown:
    """A file to save under `file`, or a command to run."""

    file: str | None
    text: str


def shown_in(page: Path) -> Iterator[Shown]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"] is not None:
            yield Shown(block["file"], block["text"])
        elif block["kind"] == "console":
            for line in block["text"].splitlines():
                if line.startswith("$ ") and not _is_left_out(line[2:]):
                    yield Shown(None, line[2:])


def _is_left_out(command: str) -> bool:
    program, _, rest = command.partition(" ")
    return program in _NOT_HERE or rest.startswith("demo")


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """An empty folder, but for `documents/`: the README speaks of the reader's own."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "door.md").write_text("# The door\n\nThe key hangs behind the blue pot.\n")
    (tmp_path / "documents" / "cat.txt").write_text("The cat is fed at seven, and once more if nobody told her.\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "reshelve").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reshelve.cli "$@"\n')
    (programs / "reshelve").chmod(0o755)
    yield tmp_path
    embedded.stop(tmp_path / ".reshelve")


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_documented_commands_run(page: str, folder: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESHELVE_")}
    environment = {**kept, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for shown in shown_in(ROOT / page):
        if shown.file is not None:
            (folder / shown.file).parent.mkdir(exist_ok=True)
            (folder / shown.file).write_text(shown.text, encoding="utf-8")
            continue
        done = subprocess.run(
            shown.text, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, f"$ {shown.text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 5
