"""HTML pages that load nothing: style and charts are inside, and there is no script."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from reshelve.display import numbers

_FILTERS = ("count", "score", "difference", "seconds", "milliseconds", "dollars", "probability", "percent", "moment")


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """The template `template` of `package`, with the numbers' filters, and the pages' common `style`."""
    return _template(package, template).render(**values)


@cache
def _template(package: str, name: str) -> Any:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment: Any = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {each: getattr(numbers, each) for each in _FILTERS}
    environment.globals |= {"figure": numbers.figure, "limit": numbers.limit}
    environment.globals["style"] = Markup(files("reshelve.display").joinpath("page.css").read_text("utf-8"))
    return environment.from_string(files(package).joinpath(name).read_text("utf-8"))
