"""BERT in plain numpy and float32, written from the paper and apart from the program: what the program is held against.

Devlin et al., 2019. One text at a time, so there is no padding and no mask to get wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from scipy.special import erf
from tokenizers import Tokenizer


class NumpyBert:
    """A sentence-transformers directory with one model.safetensors in float32, mean or cls pooling, normalised."""

    def __init__(self, directory: Path, *, pooling: str, max_tokens: int, first_position: int = 0) -> None:
        from safetensors.numpy import load_file

        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = load_file(directory / "model.safetensors")
        self.pooling = pooling
        self.first_position = first_position
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._vector(self.tokenizer.encode(text).ids) for text in texts])

    def tokens(self, text: str) -> np.ndarray:
        """One vector of unit length a token, without the first and the last one, which are special."""
        states = self._states(self.tokenizer.encode(text).ids)[1:-1]
        return states / np.linalg.norm(states, axis=1, keepdims=True)

    def _vector(self, ids: list[int]) -> np.ndarray:
        x = self._states(ids)
        pooled = x[0] if self.pooling == "cls" else x.mean(axis=0)
        return pooled / np.linalg.norm(pooled)

    def _states(self, ids: list[int]) -> np.ndarray:
        table = self.tensors
        positions = np.arange(len(ids)) + self.first_position
        x = table["embeddings.word_embeddings.weight"][ids]
        x = x + table["embeddings.position_embeddings.weight"][positions]
        x = self._norm(x + table["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for number in range(self.config["num_hidden_layers"]):
            x = self._layer(x, f"encoder.layer.{number}.")
        return x

    def _layer(self, x: np.ndarray, name: str) -> np.ndarray:
        heads = self.config["num_attention_heads"]
        query, key, value = (
            self._dense(x, f"{name}attention.self.{part}").reshape(len(x), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[2])
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        seen = (weights @ value).swapaxes(0, 1).reshape(len(x), -1)
        x = self._norm(x + self._dense(seen, f"{name}attention.output.dense"), f"{name}attention.output.LayerNorm")
        wide = self._dense(x, f"{name}intermediate.dense")
        wide = wide * 0.5 * (1.0 + erf(wide / math.sqrt(2.0)))
        return self._norm(x + self._dense(wide, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / spread * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
