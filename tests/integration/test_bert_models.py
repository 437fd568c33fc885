"""Models run by OpenVINO against the same models in plain numpy, and the directories that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reshelve.embedders.bert import open_bert
from reshelve.embedders.bert_files import read_bert_directory
from reshelve.embedders.bert_graph import Precision
from reshelve.embedders.opening import open_embedder, reopen_embedder
from reshelve.embedders.weights import minilm_directory
from reshelve.embedders.wordpiece import wordpiece
from reshelve.errors import ModelChangedError, ModelError, NotFoundError, ReshelveError
from reshelve.settings import EmbeddingSettings
from tests.support.numpy_bert import NumpyBert
from tests.support.tiny_bert import write_tiny_bert

TEXTS = [
    "",
    "a",
    "The shelves are full.",
    "  spaces   around  ",
    "Die Bücherei schließt um fünf Uhr.",
    "図書館の棚は高さ2メートルです。",
    "Библиотека открыта каждый день.",
    "المكتبة مفتوحة",
    "📚 and 🙂",
    "What happens to the readers when every book moves at once?",
    "unbroken" * 30,
    "A catalogue lists each book by author, title and subject, and says on which shelf it stands. " * 25,
]


@pytest.fixture(scope="module")
def minilm_in_numpy() -> np.ndarray:
    return NumpyBert(minilm_directory(), pooling="mean", max_tokens=256).embed(TEXTS)


@pytest.mark.parametrize(("precision", "least"), [("f32", 0.9999), ("bf16", 0.999), (None, 0.999)])
async def test_minilm_is_the_reference_model(
    minilm_in_numpy: np.ndarray, precision: Precision | None, least: float
) -> None:
    embedder = open_bert(minilm_directory(), name="minilm-l6-v2", location="", precision=precision)
    found = (await embedder.embed_documents(TEXTS)).vectors
    await embedder.aclose()
    assert (found * minilm_in_numpy).sum(axis=1).min() >= least
    assert (embedder.model.dimension, embedder.max_tokens) == (384, 256)


def test_the_tokenizer_that_comes_with_the_program_is_minilms() -> None:
    assert wordpiece().to_str() == read_bert_directory(minilm_directory()).tokenizer().to_str()


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
async def test_a_directory_is_run_as_numpy_runs_it(tmp_path: Path, architecture: str, pooling: str) -> None:
    directory = write_tiny_bert(tmp_path / "tiny", pooling=pooling, architecture=architecture)
    first = 2 if architecture == "roberta" else 0
    expected = NumpyBert(directory, pooling=pooling, max_tokens=32, first_position=first).embed(TEXTS)
    embedder = open_bert(directory, name="tiny", location="", precision="f32")
    found = (await embedder.embed_documents(TEXTS)).vectors
    await embedder.aclose()
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert (embedder.model.pooling, embedder.max_tokens) == (pooling, 32)


async def test_prompts_of_the_model_are_its_prefixes(tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "tiny", prompts={"query": "query: ", "passage": "passage: "})
    embedder = await open_embedder(EmbeddingSettings(model=str(directory)))
    expected = NumpyBert(directory, pooling="cls", max_tokens=32).embed(["query: a book", "passage: a book"])
    assert (embedder.model.name, embedder.location) == ("tiny", str(directory))
    assert ((await embedder.embed_queries(["a book"])).vectors @ expected[0]).min() >= 0.999
    assert ((await embedder.embed_documents(["a book"])).vectors @ expected[1]).min() >= 0.999
    await embedder.aclose()


async def test_weights_in_shards_and_in_half_precision(tmp_path: Path) -> None:
    whole = write_tiny_bert(tmp_path / "whole")
    shards = write_tiny_bert(tmp_path / "shards")
    tensors = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for number, name in enumerate(sorted(tensors)):
        places[f"bert.{name}"] = f"model-{number % 2}.safetensors"
    for file in set(places.values()):
        part = {name: tensors[name.removeprefix("bert.")].astype(np.float16) for name in places if places[name] == file}
        save_file(part, shards / file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    vectors: list[np.ndarray] = []
    for directory in (whole, shards):
        embedder = open_bert(directory, name="tiny", location="")
        vectors.append((await embedder.embed_documents(TEXTS)).vectors)
        await embedder.aclose()
    assert (vectors[0] * vectors[1]).sum(axis=1).min() >= 0.999


async def test_changed_and_missing_files_are_noticed(tmp_path: Path) -> None:
    directory = write_tiny_bert(tmp_path / "tiny")
    embedder = await open_embedder(EmbeddingSettings(model=str(directory)))
    write_tiny_bert(directory, seed=1)
    with pytest.raises(ModelChangedError, match="tiny is registered with revision"):
        await reopen_embedder(embedder.model, location=embedder.location, settings=EmbeddingSettings())
    with pytest.raises(NotFoundError, match="no model directory"):
        await reopen_embedder(embedder.model, location=str(tmp_path / "gone"), settings=EmbeddingSettings())
    await embedder.aclose()


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda at: edited(at / "config.json", model_type="distilbert"), "distilbert.*\n.*openai"),
        (lambda at: edited(at / "config.json", position_embedding_type="relative_key"), "relative_key"),
        (lambda at: edited(at / "config.json", hidden_act="swish"), "swish"),
        (lambda at: edited(at / "1_Pooling" / "config.json", pooling_mode_max_tokens=True), "pooling"),
        (lambda at: edited(at / "config.json", num_hidden_layers=9), r"encoder\.layer\.2"),
        (lambda at: (at / "modules.json").write_text('[{"path": "", "type": "models.Dense"}]'), "Dense"),
        (lambda at: (at / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda at: (at / "config.json").unlink(), "has no config.json"),
        (lambda at: (at / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
        (lambda at: (at / "model.safetensors").unlink(), "safetensors"),
        (lambda at: (at / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!"), "cannot be read"),
    ],
)
async def test_a_directory_that_is_no_such_model(tmp_path: Path, break_it: Any, words: str) -> None:
    directory = write_tiny_bert(tmp_path / "tiny")
    break_it(directory)
    with pytest.raises(ModelError, match=words):
        await open_embedder(EmbeddingSettings(model=str(directory)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("minilm-l6-v3", "Did you mean minilm-l6-v2.*hashing-<dimension>"),
        ("text-embedding-3-smal", "Did you mean text-embedding-3-small"),
        ("hashing-", "hashing-512"),
        ("hashing-1", "2 to 4000"),
        ("hashing-4001", "2 to 4000"),
        ("", "A model is"),
        ("./nowhere/at/all", "A model is"),
        ("/nowhere", "A model is"),
    ],
)
async def test_a_name_that_stands_for_nothing(name: str, words: str) -> None:
    with pytest.raises(ReshelveError, match=words):
        await open_embedder(EmbeddingSettings(model=name))
