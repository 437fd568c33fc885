"""BERT as an OpenVINO graph, built from the weights. Shapes are dynamic; pooling and normalisation are inside.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2019.
All normalisations come after the residual.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reshelve.embedders.bert_files import BertShape, Weights
from reshelve.errors import ModelError

Node = Any
"""openvino's nodes; its operators are typed too loosely to gain from a narrower name."""
Precision = Literal["bf16", "f32"]
_MASKED = -10_000.0


def build_graph(shape: BertShape, weights: Weights) -> Any:
    """An openvino.Model: `ids` (texts, tokens) int32 and `mask` (texts, tokens) float32, 1 where a token is, to
    vectors (texts, hidden) and the tokens' last hidden states (texts, tokens, hidden), both float32. Raises ModelError
    when a tensor is missing."""
    import openvino

    model: Any = openvino.Model
    return model(*_Graph(shape, weights).build(), "bert")


def compile_graph(graph: Any, *, precision: Precision | None = None) -> Any:
    """For throughput on the CPU; without a `precision`, bf16 where the CPU has it, else f32."""
    import openvino

    core = openvino.Core()
    if precision is None:
        precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    return core.compile_model(graph, "CPU", options)


class _Graph:
    def __init__(self, shape: BertShape, weights: Weights) -> None:
        import openvino.opset13 as operators

        self._op: Any = operators
        self._shape = shape
        self._weights = weights

    def build(self) -> tuple[list[Node], list[Node]]:
        op = self._op
        ids, mask = op.parameter([-1, -1], np.int32), op.parameter([-1, -1], np.float32)
        ids.output(0).set_names({"ids"})
        mask.output(0).set_names({"mask"})
        hidden = self._embeddings(ids)
        bias = op.unsqueeze(op.multiply(op.subtract(self._float(1.0), mask), self._float(_MASKED)), self._ints(1, 2))
        for number in range(self._shape.layers):
            hidden = self._layer(hidden, bias, f"encoder.layer.{number}.")
        pooled = self._pooled(hidden, mask)
        return [self._unit(pooled) if self._shape.normalized else pooled, hidden], [ids, mask]

    def _embeddings(self, ids: Node) -> Node:
        op = self._op
        words = op.gather(self._weight("embeddings.word_embeddings.weight"), ids, self._ints(0))
        # Every text is one segment, the first: its type's vector goes into the positions.
        places = self._array("embeddings.position_embeddings.weight")[self._shape.position_offset :]
        places = places + self._array("embeddings.token_type_embeddings.weight")[0]
        tokens = op.gather(op.shape_of(ids), self._ints(1), self._ints(0))
        positions = op.slice(op.constant(places), self._ints(0), tokens, self._ints(1), self._ints(0))
        return self._layer_norm(op.add(words, op.unsqueeze(positions, self._ints(0))), "embeddings.LayerNorm")

    def _layer(self, hidden: Node, bias: Node, name: str) -> Node:
        op = self._op
        query, key, value = (
            self._by_head(self._dense(hidden, f"{name}attention.self.{part}")) for part in ("query", "key", "value")
        )
        seen = op.scaled_dot_product_attention(query, key, value, bias)
        seen = op.reshape(op.transpose(seen, self._ints(0, 2, 1, 3)), self._ints(0, 0, self._shape.hidden), True)
        hidden = self._layer_norm(
            op.add(self._dense(seen, f"{name}attention.output.dense"), hidden), f"{name}attention.output.LayerNorm"
        )
        wide = self._activated(self._dense(hidden, f"{name}intermediate.dense"))
        return self._layer_norm(op.add(self._dense(wide, f"{name}output.dense"), hidden), f"{name}output.LayerNorm")

    def _by_head(self, projected: Node) -> Node:
        """(texts, tokens, hidden) to (texts, heads, tokens, hidden / heads)."""
        op, heads = self._op, self._shape.heads
        split = op.reshape(projected, self._ints(0, 0, heads, self._shape.hidden // heads), True)
        return op.transpose(split, self._ints(0, 2, 1, 3))

    def _pooled(self, hidden: Node, mask: Node) -> Node:
        op = self._op
        if self._shape.pooling == "cls":
            return op.gather(hidden, op.constant(np.int64(0)), op.constant(np.int64(1)))
        summed = op.reduce_sum(op.multiply(hidden, op.unsqueeze(mask, self._ints(2))), self._ints(1))
        return op.divide(summed, op.reduce_sum(mask, self._ints(1), True))

    def _unit(self, vectors: Node) -> Node:
        op = self._op
        length = op.sqrt(op.reduce_sum(op.multiply(vectors, vectors), self._ints(1), True))
        return op.divide(vectors, op.maximum(length, self._float(1e-12)))

    def _dense(self, inputs: Node, name: str) -> Node:
        op = self._op
        return op.add(op.matmul(inputs, self._weight(f"{name}.weight"), False, True), self._weight(f"{name}.bias"))

    def _layer_norm(self, inputs: Node, name: str) -> Node:
        op = self._op
        centred = op.mvn(inputs, self._ints(-1), True, self._shape.epsilon, "inside_sqrt")
        return op.add(op.multiply(centred, self._weight(f"{name}.weight")), self._weight(f"{name}.bias"))

    def _activated(self, inputs: Node) -> Node:
        if self._shape.activation == "relu":
            return self._op.relu(inputs)
        return self._op.gelu(inputs, "tanh" if self._shape.activation == "gelu_tanh" else "erf")

    def _array(self, name: str) -> NDArray[np.float32]:
        try:
            return self._weights[name]
        except KeyError:
            raise ModelError(f"The weights have no tensor {name}", advice="Fetch the model again.") from None

    def _weight(self, name: str) -> Node:
        return self._op.constant(self._array(name))

    def _float(self, value: float) -> Node:
        return self._op.constant(np.float32(value))

    def _ints(self, *values: int) -> Node:
        return self._op.constant(np.array(values, np.int64))
