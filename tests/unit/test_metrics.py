"""Retrieval metrics, held against values worked out by hand."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reshelve.errors import InputError
from reshelve.evaluation.judged import Judged
from reshelve.evaluation.metrics import METRICS, means, score_run
from reshelve.evaluation.runs import evaluate, recall_against_exact

DOCUMENTS = st.sampled_from([f"d{number}" for number in range(15)])
RUNS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.dictionaries(DOCUMENTS, st.floats(-1, 1), max_size=15))
JUDGED = Judged(
    queries={"a": "first", "b": "second"}, judgements={"a": {"d1": 2, "d2": 1, "d3": 0}, "b": {"d4": 1, "d5": 1}}
)


def test_a_ranking_scores_what_a_hand_computes() -> None:
    judged = Judged(queries={"q": "text"}, judgements={"q": {"a": 3, "b": 2, "c": 1, "far": 1}})
    run = {"q": {"b": 0.9, "x": 0.8, "a": 0.7, "c": 0.6}}  # gains 2, 0, 3, 1 at the ranks 1 to 4; one is not found
    gained = 2 / math.log2(2) + 0 / math.log2(3) + 3 / math.log2(4) + 1 / math.log2(5)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    scores = score_run(run, judged)
    assert scores["nDCG@10"]["q"] == pytest.approx(gained / ideal, abs=1e-9)
    assert scores["R@10"]["q"] == scores["R@100"]["q"] == pytest.approx(0.75)
    assert scores["RR"]["q"] == 1.0


def test_the_cutoffs_are_at_ten_and_a_hundred() -> None:
    judged = Judged(queries={"q": "text"}, judgements={"q": {"x10": 1, "x11": 1, "x100": 1, "x101": 1}})
    scores = score_run({"q": {f"x{rank}": -float(rank) for rank in range(1, 121)}}, judged)
    assert scores["R@10"]["q"] == 0.25
    assert scores["R@100"]["q"] == 0.75
    assert scores["RR"]["q"] == pytest.approx(0.1)


def test_a_query_without_results_counts_as_zero() -> None:
    scores = score_run({"a": {"d1": 1.0}, "unjudged": {"d1": 1.0}}, JUDGED)
    assert all(scores[metric]["b"] == 0.0 for metric in METRICS)
    assert means(scores)["RR"] == 0.5
    assert means(score_run({}, JUDGED)) == dict.fromkeys(METRICS, 0.0)


def test_scores_closer_than_float32_keep_their_order() -> None:
    judged = Judged(queries={"q": "text"}, judgements={"q": {"a": 1}})
    assert score_run({"q": {"a": 0.8 + 1e-12, "b": 0.8}}, judged)["RR"]["q"] == 1.0


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="query a"):
        score_run({"a": {"d1": math.nan}}, JUDGED)
    with pytest.raises(InputError, match="no judged query"):
        means({"RR": {}})


@given(RUNS)
def test_scores_are_shares_and_do_not_depend_on_the_scale(run: dict[str, dict[str, float]]) -> None:
    scores = score_run(run, JUDGED)
    assert all(set(values) == set(JUDGED.queries) for values in scores.values())
    assert all(0 <= value <= 1 for values in scores.values() for value in values.values())
    doubled = {query: {document: 2 * score for document, score in found.items()} for query, found in run.items()}
    assert score_run(doubled, JUDGED) == scores


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=10), min_size=1, max_size=8))
def test_recall_against_exact_is_one_for_the_same_answers(exact: list[list[int]]) -> None:
    assert recall_against_exact(exact, exact) == 1.0
    assert recall_against_exact([[] for _ in exact], exact) == 0.0
    assert 0 <= recall_against_exact([row[:1] for row in exact], exact) <= 1


def test_recall_against_exact_is_the_mean_share_found() -> None:
    assert recall_against_exact([[1, 2, 9], [5], [7]], [[1, 2, 3, 4], [5], []]) == 0.75
    with pytest.raises(InputError, match="found nothing"):
        recall_against_exact([[]], [[]])
    with pytest.raises(InputError, match="held against"):
        recall_against_exact([[1]], [])


async def test_evaluate_scores_the_served_order_and_reports_progress() -> None:
    answers = {"first": [("d9", 0.5), ("d1", 0.5), ("d1", 0.4), ("d2", 0.3)], "second": []}
    running = most = 0
    heard: list[tuple[int, int]] = []

    async def search(text: str, depth: int) -> list[tuple[str, float]]:
        nonlocal running, most
        assert depth == 50
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return answers[text]

    def progress(done: int, total: int) -> None:
        heard.append((done, total))

    evaluation = await evaluate("new", search, JUDGED, depth=50, concurrency=2, on_progress=progress)
    assert evaluation.scores["RR"] == {"a": 0.5, "b": 0.0}
    assert evaluation.means["R@10"] == 0.5
    assert most == 2
    assert heard == [(1, 2), (2, 2)]
    assert evaluation.as_dict().keys() == {"name", "queries", "means", "seconds"}


async def test_evaluate_raises_the_error_of_a_search_as_it_is() -> None:
    async def search(text: str, depth: int) -> list[tuple[str, float]]:
        raise InputError(f"{text} failed")

    with pytest.raises(InputError, match="first failed"):
        await evaluate("new", search, JUDGED)


def test_importing_evaluation_loads_no_heavy_library() -> None:
    rooms = ", ".join(f"reshelve.evaluation.{name}" for name in ("judged", "metrics", "paired", "runs"))
    program = f"import sys, {rooms}; sys.exit(bool({{'scipy', 'ir_measures', 'pytrec_eval'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
