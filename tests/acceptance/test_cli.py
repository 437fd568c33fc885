"""The command line as a person or a script uses it: real processes, a real embedded server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import shlex
import signal
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reshelve import errors
from tests.support.chat_endpoint import ChatEndpoint
from tests.support.files import pdf

WORDS = [f"{first}{last}" for first in ("sand", "corn", "moon", "fire", "book") for last in ("stone", "field", "light")]
ROWS = 600


@dataclass(frozen=True)
class Shop:
    """A folder with a settings file and documents; its collection is one of several on the module's server."""

    folder: Path
    server: Path

    def settle(self, model: str, more: str = "") -> None:
        """Write rag.toml."""
        (self.folder / "rag.toml").write_text(
            f'[rag]\ncollection = "{self.folder.name}"\n[rag.database]\ndirectory = "{self.server}"\n'
            f'[rag.embedding]\nmodel = "{model}"\n{more}\n'
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RESHELVE_", "COLUMNS"))}
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
        """Standard output and standard error of a command that ends with `code`."""
        with self.start(*command, **environment) as process:
            try:
                out, err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode == code, f"{command}: exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out, err

    def json(self, *command: str, code: int = 0, **environment: str) -> Any:
        """The one document on standard output."""
        return json.loads(self.run(*command, "--json", code=code, **environment)[0])

    def error(self, *command: str, code: int = 1, **environment: str) -> dict[str, str]:
        document = self.json(*command, code=code, **environment)
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"code", "message", "advice"}
        return document["error"]


def write_documents(path: Path, *, rows: int = ROWS, bad: bool = False) -> None:
    dice = random.Random(7)
    lines = [
        json.dumps({"_id": f"d{number}", "title": f"Title {number}", "text": " ".join(dice.choices(WORDS, k=30)),
                    "shelf": number % 3})
        for number in range(rows)
    ]  # fmt: skip
    if bad:
        lines[5:5] = ["{broken", '{"_id": "n", "text": 7}', '{"text": "nobody\'s"}']
    path.write_text("\n".join(lines) + "\n")


def on_a_terminal(shop: Shop, *command: str) -> str:
    """All that a person sees of a command that ends well: with bars and colours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 160))
    with subprocess.Popen(
        [sys.executable, "-m", "reshelve.cli", *command], cwd=shop.folder, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        # A terminal whose other end is closed is an error on Linux, not an end.
        with contextlib.suppress(OSError):
            while some := os.read(ours, 65536):
                seen += some
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The directory of one embedded server for all tests, started and stopped by the commands themselves."""
    folder = tmp_path_factory.mktemp("server")
    shop = Shop(folder, folder / ".reshelve")
    shop.settle("hashing-64")
    shop.run("up")
    yield shop.server
    shop.run("down")


@pytest.fixture
def shop(server: Path, tmp_path: Path) -> Shop:
    """A collection of its own, not yet made; its model would be hashing-64."""
    folder = tmp_path / f"shop-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    shop = Shop(folder, server)
    shop.settle("hashing-64")
    return shop


@pytest.fixture
def filled(shop: Shop) -> Shop:
    write_documents(shop.folder / "docs.jsonl")
    shop.run("--quiet", "ingest", "docs.jsonl")
    return shop


def test_help_needs_nothing_heavy() -> None:
    heavy = ("pydantic", "numpy", "psycopg", "rich", "structlog", "openvino", "scipy", "alembic")
    told = "import sys, reshelve.cli.app; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_whole_road(shop: Shop) -> None:
    write_documents(shop.folder / "docs.jsonl", bad=True)
    out, err = shop.run("ingest", "docs.jsonl", code=4)
    assert "docs.jsonl:6: broken JSON" in out
    assert "docs.jsonl:7: the text of document 'n'" in out
    assert "docs.jsonl:8: the document's `_id` is missing" in out
    assert "600 added, 0 updated, 0 unchanged, 3 refused" in out
    assert "reading: " in err
    again = shop.json("ingest", "docs.jsonl", code=4)
    assert (again["added"], again["unchanged"], again["refused_count"]) == (0, ROWS, 3)
    assert [refused["line"] for refused in again["refused"]] == [6, 7, 8]

    found = shop.json("search", "sandstone moonlight", "--top-k", "5", "--where", "shelf=1")
    assert [result["metadata"] for result in found["results"]] == [{"shelf": 1}] * 5
    assert found["model"] == found["query_model"] == "hashing-64"
    wanted = ("--where", "shelf=2", "--filter", '{"shelf": {"$lt": 3}}')
    found = shop.json("search", "sandstone moonlight", "--top-k", "5", *wanted)
    assert [result["metadata"] for result in found["results"]] == [{"shelf": 2}] * 5
    found = shop.json("search", "sandstone moonlight", "--rerank", "late_interaction", "--explain")
    assert "rerank" in found["legs_ms"]
    assert all("late_interaction" in result["legs"] for result in found["results"])
    wrong = shop.error("search", "sandstone", "--filter", '{"shelf": {"$lte3": 3}}')
    assert (wrong["code"], wrong["advice"].partition("?")[0]) == ("input", 'Did you mean "$lte"')
    assert "Nothing to change" in shop.run("apply")[0]

    shop.settle("hashing-128")
    plan = shop.json("plan")
    assert (plan["needed"], plan["rows"], plan["cost_usd"]) == (True, ROWS, 0.0)
    assert {"what": "model", "before": "hashing-64", "after": "hashing-128"} in plan["changes"]
    assert any("vector(128)" in statement for statement in plan["sql"])
    dry = shop.json("apply", "--dry-run")
    assert dry["actions"] == plan["actions"]
    assert dry["actions"][-1]["action"] == "AwaitCutover"
    assert shop.json("status")["migration"] is None

    out, err = shop.run("apply")
    assert "✓ proven: 600 chunks, 600 in the index" in out
    assert "next: reshelve cutover" in out
    assert "building: " in err
    assert shop.json("search", "moonlight")["model"] == "hashing-64"
    assert "hashing-128) answers; the switch took" in shop.run("cutover")[0]
    assert shop.json("search", "moonlight")["model"] == "hashing-128"
    assert shop.error("cleanup")["code"] == "transition_refused"

    back = shop.json("rollback")["migration"]
    assert back["state"] == "rolled_back"
    assert shop.json("search", "moonlight")["model"] == "hashing-64"
    second = shop.json("apply", "--cutover")["migration"]
    assert (second["state"], second["embedded_rows"], second["verification"]["passed"]) == ("soaking", 0, True)
    assert shop.json("search", "moonlight")["model"] == "hashing-128"
    assert shop.json("cleanup", "--skip-soak")["rows"] == ROWS

    status = shop.json("status")
    assert [(index["model"], index["serving"], index["entries"]) for index in status["indexes"]] == [
        ("hashing-128", True, ROWS)
    ]
    assert shop.json("delete", "d1", "d2", "nobody") == {"deleted": 2, "not_found": 1}
    assert shop.json("verify")["entries"] == ROWS - 2
    assert {model["model"] for model in shop.json("models")["models"]} >= {"hashing-64", "hashing-128"}


def test_a_folder_of_files_goes_in_and_the_report_names_what_does_not(shop: Shop) -> None:
    files = shop.folder / "files"
    files.mkdir()
    (files / "plan.pdf").write_bytes(pdf(["Meet at the gate.", "Bring the sandstone."], owner="theirs"))
    (files / "locked.pdf").write_bytes(pdf(["Nobody reads this."], owner="theirs", user="ours"))
    (files / "prices.csv").write_text("fruit;price\nplum;3\npear;4\n")
    with zipfile.ZipFile(files / "more.zip", "w") as archive:
        archive.writestr("notes/door.md", "# The door\n\nThe key hangs behind the pot.\n")
        archive.writestr("../up.md", "# Out\n")
    (files / "broken.jsonl").write_text('{"text": "nobody"}\n' * 3)
    out, _ = shop.run("ingest", "files", code=4)
    assert out.splitlines()[:3] == [
        "refused: files/broken.jsonl:1: the document's `_id` is missing (and 2 more lines)",
        "refused: files/locked.pdf: the PDF asks for a password to be opened",
        "refused: files/more.zip/../up.md: its path leads out of the archive",
    ]
    assert "4 added, 0 updated, 0 unchanged, 5 refused" in out
    assert shop.json("ingest", "files/*.csv")["unchanged"] == 2, "the same ids: a pattern's begin below its folder"
    found = shop.json("search", "sandstone", "-k", "1")["results"][0]
    assert (found["document_id"], found["metadata"]) == ("plan.pdf", {"pages": 2})


def test_two_files_of_one_id_do_not_overwrite_each_other(shop: Shop) -> None:
    for folder, animal in (("a", "cats"), ("b", "dogs")):
        (shop.folder / folder).mkdir()
        (shop.folder / folder / "README.md").write_text(f"All about {animal}.")
        (shop.folder / folder / "prices.csv").write_text(f"animal;price\n{animal};3\n")
        (shop.folder / folder / f"{animal}.md").write_text(f"More about {animal}.")
    (shop.folder / "a" / "door.txt").write_bytes(b"")
    (shop.folder / "b" / "door.txt").write_text("The first of this name cannot be read, and takes nothing.")
    out, _ = shop.run("ingest", "a", "b", "a/README.md", code=4)
    why = "which is read before it: name the folder that holds both, or rename one, so that their ids differ"
    refused = [line for line in out.splitlines() if line.startswith("refused: b")]
    assert refused == [
        f"refused: b/README.md: it has the same id as a/README.md, {why}",
        f"refused: b/prices.csv: it has the same id as a/prices.csv, {why}",
    ]
    assert "5 added, 0 updated, 1 unchanged, 3 refused" in out, "the same file may be named twice"
    found = shop.json("search", "about cats", "-k", "5", "--mode", "lexical")["results"]
    assert {each["document_id"] for each in found} >= {"README.md", "cats.md"}


def test_questions_are_answered(shop: Shop) -> None:
    (shop.folder / "door.md").write_text("# The door\n\nThe key hangs behind the blue pot.\n")
    shop.run("ingest", "door.md")
    out, _ = shop.run("ask", "Where is the key?", OPENAI_API_KEY="", GEMINI_API_KEY="")
    assert out.startswith("The key hangs behind the blue pot. [1]\n\n[1] The door  door.md [")
    assert "extractive: no language model was asked · minimal, from 1 passage of index" in out
    assert "do not hold an answer" in shop.run("ask", "What is the capital of Peru?", "--style", "detailed")[0]
    out, _ = shop.run("ask", "Summarize the key", "--json", "-k", "3", "--no-summary")
    document = json.loads(out)
    assert (document["answered_by"], document["summary"]) == ("extractive", False)
    assert document["citations"][0]["document_id"] == "door.md"
    with ChatEndpoint("It hangs \x1b[31mbehind", " the pot [1][4].") as endpoint:
        shop.settle("hashing-64", f'[rag.answering]\nbase_url = "{endpoint.base_url}"\nmodel = "m1"')
        out, _ = shop.run("ask", "Where is the key?")
    assert out.startswith("It hangs  [31mbehind the pot [1].\n\n[1] The door")
    assert "by m1 · minimal, from 1 passage" in out
    assert "1 citation dropped" in out


def test_up_names_a_psql_line_that_works_and_down_says_what_it_did(tmp_path: Path) -> None:
    shop = Shop(tmp_path, tmp_path / ".reshelve")
    shop.settle("hashing-64")
    try:
        up = shop.json("up")
        assert Path(up["socket"]).is_dir()
        asked = [*shlex.split(up["psql"]), "-Atc", "SELECT current_user"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "reshelve_owner\n"
        assert "is up" in shop.run("up")[0]
    finally:
        assert shop.json("down")["stopped"] is True
    assert "no server was running" in shop.run("down")[0]


def test_a_wrong_request_changes_nothing_and_says_what_to_do(filled: Shop) -> None:
    for command, code, said in (
        (("search", "   "), "input", "the query is empty"),
        (("search", "x", "--top-k", "0"), "input", "top_k is 0; it must be from 1 to 1,000"),
        (("search", "x", "--top-k", "100000"), "input", "top_k is 100000"),
        (("search", "x", "--index", "999999"), "not_found", "no index 999999"),
        (("ingest", "nowhere.jsonl"), "input", "nowhere.jsonl does not exist"),
        (("ingest", "docs.jsonl", "--format", "odt"), "input", "unknown format 'odt'"),
    ):
        error = filled.error(*command)
        assert error["code"] == code
        assert said in error["message"]
    out, err = filled.run("search", "", code=1)
    assert out == ""
    assert err == "error: the query is empty\nGive at least one word.\n"
    (filled.folder / "all-bad.jsonl").write_text("{\n{\n")
    assert "2 refused" in filled.run("ingest", "all-bad.jsonl", code=1)[0]


def test_a_wrong_command_line_is_exit_code_2(shop: Shop) -> None:
    assert "No such command" in shop.run("serach", code=2)[1]
    for command in (
        ("search",),
        ("search", "x", "--where", "shelf"),
        ("search", "x", "--filter", "{"),
        ("apply", "--detach", "--dry-run"),
        ("eval",),
    ):
        assert shop.error(*command, code=2)["code"] == "usage"


def test_wrong_settings_are_named_with_the_nearest_right_ones(shop: Shop) -> None:
    (shop.folder / "rag.toml").write_text('[rag.embedding]\nmodle = "hashing-64"\n')
    wrong = shop.error("status")
    assert wrong["code"] == "settings"
    assert "rag.toml, line 2: unknown setting rag.embedding.modle" in wrong["message"]
    assert wrong["advice"] == "Did you mean rag.embedding.model?"
    assert "does not exist" in shop.error("--config", "nowhere.toml", "status")["message"]
    shop.settle("hashing-64")
    assert shop.error("search", "x")["code"] == "not_found"
    shop.settle("minilm")
    unknown = shop.error("ingest", "rag.toml", "--format", "text")
    assert unknown["message"] == "No embedding model is called minilm"
    assert unknown["advice"].startswith("Did you mean minilm-l6-v2?")
    assert shop.error("status", RESHELVE_DATABASE_URL="postgresql://127.0.0.1:1/x")["code"] == "database_unavailable"


def test_ctrl_c_in_the_middle_of_apply_loses_nothing(filled: Shop) -> None:
    filled.settle("hashing-96", "[rag.migration]\nrange_rows = 20\nlease_seconds = 60.0")
    with filled.start("apply", "--max-rate", "25") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("backfilling: ") and " of " in line and not line.startswith("backfilling: 0 of"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=15)
    assert process.returncode == 130
    assert err.endswith("error: stopped\nNothing is lost: `reshelve apply` goes on from here.\n")
    halfway = filled.json("status")["migration"]
    assert halfway["state"] == "backfilling"
    assert 0 < halfway["rows_done"] < ROWS
    # A lease that was not given back would hold this up for a minute.
    started = time.monotonic()
    limited = filled.json("apply", "--limit", "40", "--max-rate", "100000")["migration"]
    assert limited["state"] == "backfilling"
    whole = filled.json("apply")["migration"]
    assert time.monotonic() - started < 30
    assert (whole["state"], whole["embedded_rows"], whole["verification"]["passed"]) == ("verifying", ROWS, True)
    assert filled.json("rollback")["migration"]["state"] == "rolled_back"


def test_apply_detached_is_watched_and_paused_from_elsewhere(filled: Shop) -> None:
    filled.settle("hashing-96", "[rag.migration]\nrange_rows = 20")
    started = filled.json("apply", "--detach", "--max-rate", "30")
    deadline = time.monotonic() + 90
    while (migration := filled.json("status")["migration"]) is None or not migration["rows_done"]:
        assert time.monotonic() < deadline, Path(started["log"]).read_text()
    assert filled.error("apply")["code"] == "transition_refused"
    assert filled.json("pause")["migration"]["state"] == "paused"
    while Path(f"/proc/{started['pid']}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "paused" in Path(started["log"]).read_text()
    assert filled.json("status", "--watch")["migration"]["state"] == "paused"
    assert filled.json("resume")["migration"]["state"] == "verifying"


def test_a_held_gate_is_exit_code_3_and_nothing_switches(filled: Shop) -> None:
    """Without its triggers the outbox misses writes, so nothing may be called proven."""
    filled.settle("hashing-96")
    filled.run("apply")
    psql = shlex.split(filled.json("up")["psql"])
    alter = "ALTER TABLE reshelve.chunks {} TRIGGER chunks_added"
    subprocess.run([*psql, "-qc", alter.format("DISABLE")], check=True)
    try:
        assert filled.error("cutover", code=3)["code"] == "gate_held"
        assert filled.json("search", "moonlight")["model"] == "hashing-64"
        failed = filled.json("status")["migration"]
        assert failed["state"] == "failed"
        assert "triggers on chunks" in failed["reason"]
    finally:
        subprocess.run([*psql, "-qc", alter.format("ENABLE ALWAYS")], check=True)
    assert filled.json("resume")["migration"]["state"] == "verifying"
    assert filled.json("cutover")["migration"]["state"] == "soaking"


def test_two_indexes_are_compared_on_judged_queries(filled: Shop) -> None:
    filled.settle("hashing-128")
    shown = on_a_terminal(filled, "apply")
    assert "\x1b[" in shown
    assert "600 of 600 rows" in shown
    assert "✓ proven" in shown
    rows = [json.loads(line) for line in (filled.folder / "docs.jsonl").read_text().splitlines()[:30]]
    queries = [{"_id": f"q{row['_id']}", "text": " ".join(row["text"].split()[:12])} for row in rows]
    (filled.folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (filled.folder / "qrels.tsv").write_text("".join(f"q{row['_id']}\t{row['_id']}\t1\n" for row in rows))
    old, new = (index["id"] for index in filled.json("status")["indexes"])
    one = filled.json("eval", ".")
    assert one["queries"] == 30
    assert one["index"]["means"]["nDCG@10"] > 0.2
    two = filled.json("eval", ".", "--index", str(new), "--against", str(old), "--ann")
    ndcg = two["differences"][0]
    assert ndcg["metric"] == "nDCG@10"
    assert ndcg["low"] <= ndcg["difference"] <= ndcg["high"]
    assert ndcg["before"] == pytest.approx(one["index"]["means"]["nDCG@10"])
    assert two["ann_recall"][f"index {new}"] >= 0.95


def test_every_error_code_is_its_own() -> None:
    codes = [kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    assert len(codes) == len(set(codes))
