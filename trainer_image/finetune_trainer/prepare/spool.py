"""Tables that are written batch by batch and read from disk, so that memory does not grow with the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_trainer.prepare.arrays import integers

ROWS_A_BATCH = 65536
BYTES_A_BATCH = 64 << 20


class TableWriter:
    """Writes an uncompressed Arrow IPC file; small batches are joined, so that readers find few and large ones."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()
        self._sink.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add the rows of ``batch``, which has the schema of the file."""
        if batch.num_rows == 0:
            return
        # A filtered or sliced batch still holds the memory of the whole one; nbytes counts what is its own.
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROWS_A_BATCH or self._bytes >= BYTES_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
            self._writer.write_table(table, max_chunksize=ROWS_A_BATCH)
        self._waiting = []
        self._rows = self._bytes = 0


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def selected(path: Path, rows: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """The rows of a file whose indices are in ``rows`` (ascending), batch by batch."""
    start = 0
    for batch in batches(path):
        first, last = np.searchsorted(rows, (start, start + batch.num_rows))
        if first < last:
            yield batch.take(integers(rows[first:last] - start))
        start += batch.num_rows
