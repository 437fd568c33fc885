"""The commands of the documentation run, in the order in which they stand, with the files that it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reshelve.database import embedded
from tests.support.served import address_said

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NOT_HERE = {"make", "git", "pip"}
"""They install, or run this very test."""
_ADDRESS = "http://127.0.0.1:8000"
"""Of the service on the pages; here it takes any port that is free."""


PAGES = ["README.md", "docs/quickstart.md", "docs/howto/ask.md", "docs/howto/change-the-model.md"]


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


@dataclass
class Reader:
    """Who follows a page: in one terminal, and in others that the service and its traffic keep for themselves."""

    folder: Path
    environment: dict[str, str]
    address: str = _ADDRESS
    left_running: list[subprocess.Popen[str]] = field(default_factory=list[subprocess.Popen[str]])

    def save(self, file: str, text: str) -> None:
        place = self.folder / file
        place.parent.mkdir(exist_ok=True)
        place.write_text(text.replace(_ADDRESS, self.address), encoding="utf-8")

    def type(self, command: str) -> None:
        if command == "reshelve serve":
            self.address = address_said(self._leave_running(f"{command} --port 0"))
        elif command == "python traffic.py":
            traffic = self._leave_running(command)
            assert traffic.stdout is not None
            assert traffic.stdout.readline().startswith("{")
        else:
            if command == "reshelve down":
                self.leave()
            self._run(command)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == (4 if done.stdout.startswith("refused: ") else 0), (
            f"$ {command}\n{done.stdout}\n{done.stderr}"
        )

    def _leave_running(self, command: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.left_running.append(program)
        return program

    def leave(self) -> None:
        while self.left_running:
            with self.left_running.pop() as program:
                program.terminate()
                program.communicate(timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """An empty folder, but for `documents/`: the README speaks of the reader's own."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "door.md").write_text("# The door\n\nThe key hangs behind the blue pot.\n")
    (tmp_path / "documents" / "cat.txt").write_text("The cat is fed at seven, and once more if nobody told her.\n")
    yield tmp_path
    embedded.stop(tmp_path / ".reshelve")


@contextmanager
def reader(folder: Path) -> Generator[Reader]:
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("reshelve", "-m reshelve.cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RESHELVE_", "FF_"))}
    found = Reader(folder, {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"})
    try:
        yield found
    finally:
        found.leave()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES)
def test_the_documented_commands_run(page: str, folder: Path) -> None:
    ran = 0
    with reader(folder) as following:
        for shown in shown_in(ROOT / page):
            if shown.file is not None:
                following.save(shown.file, shown.text)
            else:
                following.type(shown.text)
                ran += 1
    assert ran >= 2
