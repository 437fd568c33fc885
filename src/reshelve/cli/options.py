"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Mode(StrEnum):
    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Rerank(StrEnum):
    NONE = "none"
    LATE_INTERACTION = "late_interaction"
    CROSS_ENCODER = "cross_encoder"


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
TenantOption = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose documents. Default: nobody's.")]
OnlyTenantOption = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Only this tenant's searches. Default: everybody's.")
]
IndexOption = Annotated[
    int | None, typer.Option("--index", metavar="ID", help="One index (see `reshelve status`) instead of the route's.")
]
BudgetOption = Annotated[
    float | None,
    typer.Option("--budget-usd", metavar="USD", help="Pause before the migration has spent more than this."),
]
ModeOption = Annotated[
    Mode | None, typer.Option("--mode", help="By meaning, by words, or both. Default: what rag.search.mode says.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where", metavar="KEY=VALUE", help="Only documents with this metadata; VALUE is JSON or text. Repeatable."
    ),
]
FilterOption = Annotated[
    str | None,
    typer.Option("--filter", metavar="JSON", help="""Only documents that pass, like '{"year": {"$gte": 2020}}'."""),
]
RerankOption = Annotated[
    Rerank | None,
    typer.Option("--rerank", help="Put the best in a better order. Default: what rag.search.rerank says."),
]
