"""`monitor`, `compare`, `baseline` and `feedback` as an operator or a script uses them: as processes."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import reshelve

# By meaning alone: by words the worse model finds as much as the better one.
DENSE = '[rag.search]\nmode = "dense"\n'
ANIMALS = ["cat", "dog", "horse", "cow", "goat", "duck", "goose", "sheep", "pig", "hen"]


@dataclass(frozen=True)
class Office:
    """A folder with rag.toml, on a database of its own."""

    folder: Path
    urls: tuple[str, str]

    def settle(self, model: str, more: str = "") -> None:
        owner, service = (json.dumps(url) for url in self.urls)
        (self.folder / "rag.toml").write_text(
            f'[rag.database]\nurl = {owner}\nservice_url = {service}\n[rag.embedding]\nmodel = "{model}"\n{more}\n'
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RESHELVE_", "FF_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "reshelve.cli", *command],
            cwd=self.folder,
            env={**clean, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, code: int = 0, **environment: str) -> tuple[str, str]:
        with self.start(*command, **environment) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"{command}: exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out, err

    def json(self, *command: str, code: int = 0, **environment: str) -> Any:
        return json.loads(self.run(*command, "--json", code=code, **environment)[0])


async def _roll_out(office: Office) -> None:
    office.settle("hashing-2", DENSE)
    async with reshelve.connect(office.folder / "rag.toml") as library:
        await library.ingest(office.folder / "docs.jsonl")
    office.settle("hashing-512", f"{DENSE}[rag.rollout]\nshadow_sample = 0.0")
    async with reshelve.connect(office.folder / "rag.toml") as library:
        await library.apply()
        await library.rollout(50)


@pytest.fixture
def office(database_urls: tuple[str, str], tmp_path: Path) -> Office:
    """Ten documents on hashing-2, and a candidate on hashing-512 that answers half of the users."""
    office = Office(tmp_path, database_urls)
    lines = [{"_id": name, "title": name.title(), "text": f"The {name} is in the {name} house."} for name in ANIMALS]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = tmp_path / "judged"
    judged.mkdir()
    queries = [{"_id": name, "text": f"where is the {name}?"} for name in ANIMALS]
    (judged / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (judged / "qrels.tsv").write_text("".join(f"{name}\t{name}\t1\n" for name in ANIMALS))
    asyncio.run(_roll_out(office))
    return office


def test_compare_shows_both_sides(office: Office) -> None:
    out, _ = office.run("compare", "where is the cat?", "the goose", "--top-k", "3")
    assert "A: index 1 (hashing-2)   B: index 2 (hashing-512)" in out
    assert "where is the cat?" in out
    assert "overlap@3" in out
    assert "2 queries: overlap@3" in out
    found = office.json("compare", "the pig", "--index", "2", "--index", "2")
    assert (found["overlap"], found["index_a"], found["index_b"]) == (1.0, 2, 2)
    assert office.json("compare", code=1)["error"]["advice"].startswith("Queries are kept where rag.monitoring")
    # The flag goes over the file; the search that comes before writes its query down.
    office.run("search", "the hen", FF_ENABLE_QUERY_ANALYTICS="true")
    assert [each["query"] for each in office.json("compare", "--recent", "5")["queries"]] == ["the hen"]
    office.run("compare", "x", "--index", "1", code=2)


def test_monitor_says_and_exits_by_the_thresholds(office: Office) -> None:
    office.run("search", "the hen")
    out, _ = office.run("monitor", "--range", "1h")
    assert "serving: index 1, hashing-2" in out
    assert "candidate: index 2, hashing-512" in out
    assert "rolling_out, 50 %" in out
    assert "No gate is breached." in out
    seen = office.json("monitor", "--range", "1h")
    assert (seen["arms"][0]["figures"]["requests"], seen["breaches"]) == (1, [])
    with psycopg.connect(office.urls[0], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO figures (collection_id, tenant, index_id, arm, name, at, seconds, bin, count, total) "
            "VALUES (1, '', 2, 'candidate', 'request', date_bin('10 s', now(), 'epoch'), 10, 120, 5, 50000)"
        )
    out, _ = office.run("monitor", code=1)
    assert "Over a threshold:" in out
    assert "candidate (index 2): mean_ms is 1e+04, at most 800" in out
    assert office.json("monitor", code=1)["breaches"]
    office.run("monitor", "--range", "2h", code=2)


def test_monitor_goes_on_until_it_is_told(office: Office) -> None:
    with office.start("monitor", "--continuous", "--every", "0.2") as process:
        assert process.stdout is not None
        heads, deadline = 0, time.monotonic() + 60
        while heads < 3 and time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 1)[0]:
                heads += process.stdout.readline().startswith("Collection default")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert heads == 3
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err


def test_a_baseline_is_saved_and_compared(office: Office) -> None:
    office.run("search", "the hen")
    out, _ = office.run("baseline", "save", "before", "--judged", "judged", "--range", "1h")
    assert "Baseline before saved: index 1, hashing-2" in out
    assert "nDCG@10" in out
    out, _ = office.run("baseline", "compare")
    assert "Nothing is worse than the baseline." in out
    with psycopg.connect(office.urls[0], autocommit=True) as connection:
        scores = '{"nDCG@10": {' + ", ".join(f'"{name}": 1.0' for name in ANIMALS) + "}}"
        connection.execute(
            "UPDATE baselines SET figures = jsonb_set(figures, '{quality,scores}', %s::jsonb)", (scores,)
        )
    out, _ = office.run("baseline", "compare", "before", code=1)
    assert "Worse than the baseline: nDCG@10" in out
    found = office.json("baseline", "compare", "before", code=1)
    assert found["quality"][0]["high"] < 0
    assert office.json("baseline", "compare", "never", code=1)["error"]["code"] == "not_found"


def test_feedback_is_given_and_tallied(office: Office) -> None:
    found = office.json("search", "the hen")
    told = (found["search_id"], str(found["results"][0]["chunk_id"]), "--index", str(found["index"]))
    assert "was used" in office.run("feedback", *told)[0]
    assert office.json("feedback", *told)["chunk_id"] == found["results"][0]["chunk_id"]
    out, _ = office.run("feedback")
    assert "no preference is proven" in out
    assert [arm["used"] for arm in office.json("feedback")["arms"]] == [1, 0]
    office.run("feedback", found["search_id"], code=2)
    assert office.json("feedback", found["search_id"], "999999", "--index", "1", code=1)["error"]["code"] == "not_found"
