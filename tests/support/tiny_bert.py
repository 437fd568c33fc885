"""A small random BERT in sentence-transformers layout, on disk."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reshelve.embedders.wordpiece import wordpiece

LAYERS, HIDDEN, WIDE, POSITIONS = 2, 48, 96, 40


def write_tiny_bert(
    directory: Path,
    *,
    seed: int = 0,
    pooling: str = "cls",
    architecture: str = "bert",
    prompts: dict[str, str] | None = None,
    activation: str = "gelu",
) -> Path:
    """Random weights from `seed`. A roberta keeps its first two positions for padding, as that family does."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    roberta = architecture == "roberta"
    tokenizer = wordpiece()
    config = {
        "model_type": architecture,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "hidden_size": HIDDEN,
        "hidden_act": activation,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 1 if roberta else 0,
    }
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    _write(directory / "config.json", config)
    _write(directory / "modules.json", modules)
    _write(directory / "1_Pooling" / "config.json", modes)
    _write(directory / "config_sentence_transformers.json", {"prompts": prompts or {}})
    _write(directory / "sentence_bert_config.json", {"max_seq_length": 32})
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(_tensors(seed, tokenizer.get_vocab_size()), directory / "model.safetensors")
    return directory


def _tensors(seed: int, vocabulary: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{layer}{name}.weight": (HIDDEN, HIDDEN), f"{layer}{name}.bias": (HIDDEN,)}
        shapes |= {f"{layer}intermediate.dense.weight": (WIDE, HIDDEN), f"{layer}intermediate.dense.bias": (WIDE,)}
        shapes |= {f"{layer}output.dense.weight": (HIDDEN, WIDE), f"{layer}output.dense.bias": (HIDDEN,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}{name}.weight": (HIDDEN,), f"{layer}{name}.bias": (HIDDEN,)}
    drawn = {
        name: np.random.default_rng([seed, zlib.crc32(name.encode())]).normal(0.0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    return {name: array + 1.0 if name.endswith("LayerNorm.weight") else array for name, array in drawn.items()}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
