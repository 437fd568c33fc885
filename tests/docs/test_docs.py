"""docs/reference.md names every setting with its default, every command with its options, and every error code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from reshelve import errors
from reshelve.api.app import create_app
from reshelve.cli.app import app
from reshelve.errors import ReshelveError
from reshelve.settings import Settings

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
PROGRAM: Any = typer.main.get_command(app)


def settings_with_defaults(section: type[BaseModel] = Settings, place: str = "rag") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= settings_with_defaults(field.annotation, f"{place}.{name}")
        else:
            found[f"{place}.{name}"] = field.get_default(call_default_factory=True)
    return found


def long_options(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts if name.startswith("--")}


def section_of(command: str) -> str:
    heading = re.search(rf"^### `reshelve {command}\b.*$", REFERENCE, re.MULTILINE)
    assert heading is not None, f"docs/reference.md has no section on `reshelve {command}`"
    return REFERENCE[heading.end() :].partition("\n### ")[0].partition("\n## ")[0]


@pytest.mark.parametrize(("setting", "default"), settings_with_defaults().items(), ids=str)
def test_every_setting_is_documented_with_its_default(setting: str, default: Any) -> None:
    row = re.search(rf"^\| `{re.escape(setting)}`[^|]*\|([^|]*)\|", REFERENCE, re.MULTILINE)
    assert row is not None
    if default not in (None, {}):
        assert json.dumps(default) in row[1]


@pytest.mark.parametrize("command", PROGRAM.commands)
def test_every_command_is_documented_with_its_options(command: str) -> None:
    section = section_of(command)
    # What all commands share is described once.
    undocumented = long_options(PROGRAM.commands[command]) - {"--json", "--help"}
    assert {option for option in undocumented if f"`{option}" not in section} == set()


def test_no_command_is_documented_that_is_not_there() -> None:
    assert set(re.findall(r"^### `reshelve (\w+)", REFERENCE, re.MULTILINE)) == set(PROGRAM.commands)


def test_the_options_before_the_command_are_documented() -> None:
    introduction = REFERENCE.partition("## Commands")[2].partition("\n### ")[0]
    assert {option for option in long_options(PROGRAM) if f"`{option}" not in introduction} == set()


@pytest.mark.parametrize(
    "code",
    sorted(
        {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReshelveError)}
        - {ReshelveError.code}
    ),
)
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in REFERENCE


def test_every_route_is_documented_and_no_other() -> None:
    paths: dict[str, dict[str, Any]] = create_app(Settings()).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    described = set(re.findall(r"^\| `((?:GET|PUT|POST|DELETE|PATCH) [^`]+)`", REFERENCE, re.MULTILINE))
    assert described == routes
