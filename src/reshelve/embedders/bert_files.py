"""A BERT-family model directory in sentence-transformers layout: what its files say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from reshelve.errors import ModelError

_POSITION_OFFSETS = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
"""Architectures with BERT's graph. Those with 1 number positions from their padding token's id, plus one."""
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_OTHER_WAY = 'Serve it behind an OpenAI-compatible endpoint (TEI, vLLM, Ollama) and set provider = "openai".'
_UNLIMITED = 1_000_000
"""Tokenizers without a limit of their own say something above this."""

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """What the graph is built from. `activation` is gelu, gelu_tanh or relu; `pooling` is mean or cls."""

    layers: int
    heads: int
    hidden: int
    epsilon: float
    activation: str
    position_offset: int
    pooling: str
    normalized: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BertDirectory:
    path: Path
    shape: BertShape
    max_tokens: int
    query_prefix: str
    document_prefix: str
    lower_case: bool

    def tokenizer(self) -> Tokenizer:
        """A new one that neither cuts nor pads."""
        try:
            tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{self.path / 'tokenizer.json'} cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def revision(self) -> str:
        """The first 128 bits of the SHA-256 of the weight files, in the order of their names."""
        digest = hashlib.sha256()
        for file in _weight_files(self.path):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()[:32]

    def weights(self) -> Weights:
        """Every tensor in float32, named as BertModel names it."""
        named: Weights = {}
        for file in _weight_files(self.path):
            for name, array in _tensors(file):
                named[_plain_name(name)] = array
        return named


def read_bert_directory(path: Path) -> BertDirectory:
    """Raises ModelError for files that are missing, and for an architecture or a module that is not supported."""
    config = _json(path / "config.json")
    architecture = str(config.get("model_type", "unknown"))
    if architecture not in _POSITION_OFFSETS:
        raise ModelError(
            f"{path.name} is a {architecture} model, and only {', '.join(_POSITION_OFFSETS)} are run here",
            advice=_OTHER_WAY,
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(f"{path.name} has {config['position_embedding_type']} positions", advice=_OTHER_WAY)
    activation = str(config.get("hidden_act", "gelu"))
    if activation not in _ACTIVATIONS:
        raise ModelError(f"{path.name} has the activation {activation}", advice=_OTHER_WAY)
    if not (path / "tokenizer.json").is_file():
        raise ModelError(
            f"{path} has no tokenizer.json",
            advice="Save the model again with its fast tokenizer (save_pretrained), or fetch a later revision of it.",
        )
    offset = _POSITION_OFFSETS[architecture] and _POSITION_OFFSETS[architecture] + int(config.get("pad_token_id", 1))
    pooling, normalized = _modules(path)
    prompts = _prompts(path)
    sentence = _json_if_there(path / "sentence_bert_config.json")
    return BertDirectory(
        path=path,
        shape=BertShape(
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            hidden=int(config["hidden_size"]),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            activation=_ACTIVATIONS[activation],
            position_offset=offset,
            pooling=pooling,
            normalized=normalized,
        ),
        max_tokens=min(_stated_limit(path, sentence), int(config["max_position_embeddings"]) - offset),
        query_prefix=prompts[0],
        document_prefix=prompts[1],
        lower_case=bool(sentence.get("do_lower_case", False)),
    )


def _stated_limit(path: Path, sentence: Mapping[str, Any]) -> int:
    stated = sentence.get("max_seq_length") or _json_if_there(path / "tokenizer_config.json").get("model_max_length")
    return int(stated) if stated and stated < _UNLIMITED else _UNLIMITED


def _modules(path: Path) -> tuple[str, bool]:
    """Pooling, and whether the vectors are made unit length.

    Without modules.json it is mean pooling, as sentence-transformers has it. Vectors that are compared by cosine are
    normalised even where no module says so: it changes no comparison. Only a model meant for dot products is not.
    """
    meant_for = _json_if_there(path / "config_sentence_transformers.json").get("similarity_fn_name") or "cosine"
    normalized = meant_for == "cosine"
    pooling = "mean"
    file = path / "modules.json"
    modules: Any = _json(file) if file.is_file() else []
    for module in modules:
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(path / str(module["path"]) / "config.json")
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise ModelError(f"{path.name} has a {kind} module, which is not run here", advice=_OTHER_WAY)
    return pooling, normalized


def _pooling(file: Path) -> str:
    config = _json(file)
    chosen = {
        key.removeprefix("pooling_mode_")
        for key, value in config.items()
        if value is True and key.startswith("pooling_")
    }
    if not chosen:
        chosen = {str(config.get("pooling_mode", "mean"))}
    names = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(chosen) != 1 or not chosen <= names.keys():
        raise ModelError(f"{file} asks for {' and '.join(sorted(chosen))} pooling", advice=_OTHER_WAY)
    if config.get("include_prompt") is False:
        raise ModelError(f"{file} leaves the prefix out of the pooling", advice=_OTHER_WAY)
    return names[chosen.pop()]


def _prompts(path: Path) -> tuple[str, str]:
    """The prefixes of queries and of documents."""
    config = _json_if_there(path / "config_sentence_transformers.json")
    prompts: Mapping[str, str] = config.get("prompts") or {}
    otherwise = prompts.get(config.get("default_prompt_name") or "", "")
    query = prompts.get("query") or otherwise
    document = prompts.get("document") or prompts.get("passage") or otherwise
    return query, document


def _weight_files(path: Path) -> list[Path]:
    single = path / "model.safetensors"
    if single.is_file():
        return [single]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        raise ModelError(
            f"{path} has no model.safetensors",
            advice="Only safetensors weights are read: save the model with safe_serialization=True.",
        )
    names: Mapping[str, str] = _json(index)["weight_map"]
    files = [path / name for name in sorted(set(names.values()))]
    for file in files:
        if file.parent != path or not file.is_file():
            raise ModelError(f"{index} names {file.name}, which is not there")
    return files


def _tensors(file: Path) -> list[tuple[str, NDArray[np.float32]]]:
    from safetensors import SafetensorError
    from safetensors import deserialize as read  # pyright: ignore[reportUnknownVariableType] its types are incomplete

    try:
        tensors: list[tuple[str, dict[str, Any]]] = read(file.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}", advice="Fetch the model again.") from error
    return [
        (name, _float32(tensor["data"], tensor["dtype"]).reshape(tensor["shape"]))
        for name, tensor in tensors
        if tensor["dtype"] in {"F32", "F16", "BF16"}
    ]


def _float32(data: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        # The upper half of a float32.
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float32 if dtype == "F32" else np.float16).astype(np.float32, copy=False)


def _plain_name(name: str) -> str:
    for prefix in ("bert.", "roberta."):
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file.parent} has no {file.name}",
            advice="A model directory holds config.json, tokenizer.json, model.safetensors and 1_Pooling/config.json.",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def _json_if_there(file: Path) -> Mapping[str, Any]:
    return _json(file) if file.is_file() else {}
