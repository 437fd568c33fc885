"""Texts a second of minilm-l6-v2, beside sentence-transformers in the same run.

    python -m bench.embedders [--peer-python PATH] [--texts 256] [--tokens 240] [--json]

sentence-transformers is not in the lock file (it brings torch): `--peer-python` is the interpreter of an environment
that has it. Both sides read the same files and texts, use the same number of cores, and take turns; each side's best
round counts. The peer runs as it comes: fp32, batches of 32.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from reshelve.embedders.bert import BertEmbedder, open_bert
from reshelve.embedders.weights import minilm_directory
from reshelve.embedders.wordpiece import wordpiece

_PEER = """
import sys, time
import numpy as np
import torch
torch.set_num_threads(int(sys.argv[3]))
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = open(sys.argv[2], encoding="utf-8").read().split("\\n")
model.encode(texts[:32])
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    vectors = model.encode(texts, normalize_embeddings=True)
    print(time.perf_counter() - began, flush=True)
np.save(sys.argv[2] + ".npy", vectors)
"""
_WORDS = (
    "library shelf reader catalogue borrow return index query passage vector model distance search ranking river "
    "mountain protein enzyme clinical trial patient market contract evidence measure energy quantum theory language "
    "grammar history empire trade climate ocean engine bridge signal network memory filter sample estimate"
)


def running_text(count: int, *, tokens: int) -> list[str]:
    """Texts of exactly `tokens` tokens, special ones included, drawn from whole-word tokens."""
    words = [word for word in _WORDS.split() if len(wordpiece().encode(word, add_special_tokens=False)) == 1]
    random = np.random.default_rng(7)
    return [" ".join(random.choice(words, tokens - 2)) for _ in range(count)]


class Peer:
    def __init__(self, python: str, model: Path, file: Path, threads: int) -> None:
        self._file = file
        self._process = subprocess.Popen(
            [python, "-c", _PEER, str(model), str(file), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._read() != "ready":
            raise SystemExit(f"{python} cannot run sentence-transformers.")

    def seconds(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._read())

    def vectors(self) -> np.ndarray:
        """Of the last round. Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        return np.load(f"{self._file}.npy")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


async def _seconds(embedder: BertEmbedder, texts: list[str]) -> float:
    began = time.perf_counter()
    await embedder.embed_documents(texts)
    return time.perf_counter() - began


async def measure(*, texts: int, tokens: int, rounds: int, peer_python: str | None) -> dict[str, Any]:
    """Texts a second of each side, their ratio, and the least cosine with the peer (else with our own fp32)."""
    directory = minilm_directory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    corpus = running_text(texts, tokens=tokens)
    ours = open_bert(directory, name="minilm-l6-v2", location="")
    exact = open_bert(directory, name="minilm-l6-v2", location="", precision="f32")
    await _seconds(ours, corpus[:32])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts"
        file.write_text("\n".join(corpus), encoding="utf-8")
        peer = Peer(peer_python, directory, file, cores) if peer_python is not None else None
        times: dict[str, list[float]] = {"reshelve": [], "reshelve_fp32": [], "sentence_transformers": []}
        for _ in range(rounds):
            times["reshelve"].append(await _seconds(ours, corpus))
            times["reshelve_fp32"].append(await _seconds(exact, corpus))
            if peer is not None:
                times["sentence_transformers"].append(peer.seconds())
        found = (await ours.embed_documents(corpus)).vectors
        reference = peer.vectors() if peer is not None else (await exact.embed_documents(corpus)).vectors
    rates = {name: texts / min(seconds) for name, seconds in times.items() if seconds}
    report: dict[str, Any] = {"cores": cores, "tokens_a_text": tokens, "texts_per_second": rates}
    report["least_cosine"] = float((found * reference).sum(axis=1).min())
    if peer is not None:
        report["ratio"] = rates["reshelve"] / rates["sentence_transformers"]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="an interpreter that has sentence-transformers")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = asyncio.run(
        measure(texts=options.texts, tokens=options.tokens, rounds=options.rounds, peer_python=options.peer_python)
    )
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['tokens_a_text']} tokens a text, {report['cores']} cores")
    for name, rate in report["texts_per_second"].items():
        print(f"  {name:24}{rate:8.1f} texts/s")
    beside = "sentence-transformers" if "ratio" in report else "our own fp32"
    print(f"  least cosine with {beside}: {report['least_cosine']:.6f}")
    if "ratio" in report:
        print(f"  ratio {report['ratio']:.2f} (wanted: 3.5 on a CPU with bf16)")
    else:
        print("  no --peer-python: sentence-transformers was not measured")


if __name__ == "__main__":
    main()
