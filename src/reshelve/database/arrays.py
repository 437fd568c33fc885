"""Columns of many rows as PostgreSQL's binary arrays: one parameter each, made in one piece.

`INSERT ... SELECT FROM unnest(ids, hashes, vectors)` is one round trip, and needs no table to put the rows in first.
The form is array_send's (src/backend/utils/adt/arrayfuncs.c), with pgvector's vector_send or halfvec_send inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

from reshelve.domain.models import Vectors

_BYTEA_OID = 17
_BIGINT_OID = 20
_UUID_OID = 2950


class BinaryArray:
    """A parameter for a `%b` placeholder with a cast to its type: `%b::bigint[]`."""

    __slots__ = ("data",)

    def __init__(self, element_oid: int, elements: NDArray[np.void]) -> None:
        header = np.array([1, 0, element_oid, len(elements), 1], dtype=">i4")
        self.data = header.tobytes() + elements.tobytes()


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0
    """Unknown: the server takes it from the cast."""

    def dump(self, obj: BinaryArray) -> bytes:
        return obj.data


def register_arrays(context: AdaptContext) -> None:
    context.adapters.register_dumper(BinaryArray, _BinaryArrayDumper)


def bigints(values: NDArray[np.int64]) -> BinaryArray:
    elements = np.empty(len(values), np.dtype([("size", ">i4"), ("value", ">i8")]))
    elements["size"] = 8
    elements["value"] = values
    return BinaryArray(_BIGINT_OID, elements)


def uuids(values: Sequence[UUID]) -> BinaryArray:
    elements = np.empty(len(values), np.dtype([("size", ">i4"), ("value", "V16")]))
    elements["size"] = 16
    elements["value"] = np.frombuffer(b"".join([value.bytes for value in values]), dtype="V16")
    return BinaryArray(_UUID_OID, elements)


def byteas(values: Vectors) -> BinaryArray:
    """Each row as bytes: little-endian float32, one after the other."""
    count, dimension = values.shape
    elements = np.empty(count, np.dtype([("size", ">i4"), ("value", "<f4", (dimension,))]))
    elements["size"] = 4 * dimension
    elements["value"] = values
    return BinaryArray(_BYTEA_OID, elements)


def vectors(values: Vectors, *, half: bool, oid: int) -> BinaryArray:
    """`oid` is the extension's type, which differs from database to database."""
    count, dimension = values.shape
    element = np.dtype(
        [
            ("size", ">i4"),
            ("dimension", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2" if half else ">f4", (dimension,)),
        ]
    )
    elements = np.empty(count, element)
    elements["size"] = element.itemsize - 4
    elements["dimension"] = dimension
    elements["unused"] = 0
    elements["vector"] = values
    return BinaryArray(oid, elements)
