"""Arrow arrays from Python values.

``pyarrow.array`` is avoided: given a list it imports pandas if installed, which takes longer than preparing thousands
of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TOKENS = pa.list_(pa.int32())


def integers(values: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> pa.Array:
    """An Arrow array that shares the memory of ``values``, int32 or int64 of shape (n,)."""
    kind = pa.int32() if values.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def int32s(column: pa.Array) -> npt.NDArray[np.int32]:
    """A NumPy view of an int32 array without nulls, of shape (n,)."""
    _, values = column.buffers()
    return np.frombuffer(values, np.int32, len(column), column.offset * 4)


def texts(values: Sequence[str]) -> pa.StringArray:
    """A string array; the UTF-8 texts together must not exceed 2 GiB."""
    encoded = [value.encode() for value in values]
    offsets = _offsets(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def token_lists(values: Sequence[Sequence[int]]) -> pa.ListArray:
    """A list<int32> array with one list per example."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    return lists(lengths, np.fromiter(chain.from_iterable(values), np.int32, int(lengths.sum())))


def lists(lengths: npt.NDArray[np.int64], values: npt.NDArray[np.int32]) -> pa.ListArray:
    """A list<int32> array of lists with these lengths, whose items are ``values`` one list after the other."""
    return pa.ListArray.from_arrays(integers(_offsets(lengths)), integers(values), type=TOKENS)


def list_lengths(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """The length of each list, of shape (n,)."""
    _, offsets = column.buffers()[:2]
    return np.diff(np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)).astype(np.int64)


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
