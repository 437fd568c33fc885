"""Make the demo's data from the BEIR release of SciFact.

    python tools/make_demo_data.py PATH_TO_SCIFACT [--into FOLDER]

PATH_TO_SCIFACT is a folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/test.tsv. The same input gives the
same files: every abstract that is relevant to a test query, others drawn at random to make 1,000, and 60 more that the
demo's writers bring in while it runs.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from reshelve.evaluation.judged import load_judged_directory

DOCUMENTS = 1_000
ARRIVALS = 60
SEED = 20_240_501
DATA = Path(__file__).resolve().parents[1] / "src" / "reshelve" / "demo" / "data"


def make(source: Path, into: Path) -> None:
    judged = load_judged_directory(source)
    with (source / "corpus.jsonl").open(encoding="utf-8") as lines:
        corpus = {row["_id"]: row for row in map(json.loads, lines)}
    judged_documents = {document for documents in judged.judgements.values() for document in documents}
    missing = judged_documents - corpus.keys()
    if missing:
        raise SystemExit(f"{len(missing)} judged documents are not in corpus.jsonl, for example {min(missing)}")
    # Drawn from sorted ids, so that the order of the source file does not matter.
    others = sorted(corpus.keys() - judged_documents, key=int)
    drawn = random.Random(SEED).sample(others, DOCUMENTS - len(judged_documents) + ARRIVALS)
    arrivals, distractors = drawn[:ARRIVALS], drawn[ARRIVALS:]

    into.mkdir(parents=True, exist_ok=True)
    for name, ids in (("corpus.jsonl", [*judged_documents, *distractors]), ("arrivals.jsonl", arrivals)):
        rows = [{field: corpus[id_][field] for field in ("_id", "title", "text")} for id_ in sorted(ids, key=int)]
        _write_jsonl(into / name, rows)
    queries = sorted(judged.queries, key=int)
    _write_jsonl(into / "queries.jsonl", [{"_id": query, "text": judged.queries[query]} for query in queries])
    lines = ["query-id\tcorpus-id\tscore"]
    for query in queries:
        lines += [f"{query}\t{document}\t{score}" for document, score in sorted(judged.judgements[query].items())]
    (into / "qrels.tsv").write_text("\n".join(lines) + "\n", "utf-8")


def _write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the BEIR release of SciFact")
    parser.add_argument("--into", type=Path, default=DATA, help="folder to write to")
    arguments = parser.parse_args()
    make(arguments.source, arguments.into)
