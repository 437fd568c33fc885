"""Retrieval metrics of a run, query by query, by ir-measures (which asks trec_eval)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from reshelve.errors import InputError
from reshelve.evaluation.judged import Judged

Run = Mapping[str, Mapping[str, float]]
"""query id -> external document id -> score; more is better."""

METRICS = ("nDCG@10", "R@10", "R@100", "RR")
"""In ir-measures' notation: gain discounted by log2 of the rank and normalised; recall; reciprocal rank."""


def score_run(run: Run, judged: Judged) -> dict[str, dict[str, float]]:
    """metric -> query id -> value in [0, 1], for every judged query; a query without results scores 0.

    Queries of the run that are not judged are left out. Equal scores are ordered as trec_eval does, by the greater
    document id. Raises InputError for a score that is not a number.
    """
    ir_measures: Any = importlib.import_module("ir_measures")
    ranked = {query: _by_rank(run[query], query) for query in judged.queries if run.get(query)}
    scores = {metric: dict.fromkeys(judged.queries, 0.0) for metric in METRICS}
    if not ranked:
        return scores
    measures = {metric: ir_measures.parse_measure(metric) for metric in METRICS}
    names = {measure: metric for metric, measure in measures.items()}
    for value in ir_measures.iter_calc(list(measures.values()), judged.judgements, ranked):
        scores[names[value.measure]][value.query_id] = float(value.value)
    return scores


def means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """metric -> mean over the queries. Raises InputError where a metric has no query."""
    if not all(scores.values()):
        raise InputError("there is no judged query to take a mean over")
    return {metric: math.fsum(values.values()) / len(values) for metric, values in scores.items()}


def _by_rank(documents: Mapping[str, float], query: str) -> dict[str, float]:
    """The same order with whole numbers for scores: trec_eval keeps scores as float32 and would see ties."""
    if not all(math.isfinite(score) for score in documents.values()):
        raise InputError(f"query {query} has a result whose score is not a number")
    order = sorted(documents, key=lambda document: (documents[document], document))
    return {document: float(rank) for rank, document in enumerate(order)}
