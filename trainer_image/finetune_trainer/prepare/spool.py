"""Arrow tables on disk, written and read in batches, so that memory use does not grow with the data."""

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
    """Writes an uncompressed Arrow IPC file; small batches are combined into large ones."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._schema = schema
        self._pending: list[pa.RecordBatch] = []
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
        """Append the rows of ``batch``, which must have the schema of the file."""
        if batch.num_rows == 0:
            return
        # nbytes of a sliced batch counts its own rows only, although it keeps the memory of the whole batch alive.
        self._pending.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROWS_A_BATCH or self._bytes >= BYTES_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._pending, self._schema).combine_chunks()
            self._writer.write_table(table, max_chunksize=ROWS_A_BATCH)
        self._pending = []
        self._rows = self._bytes = 0


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Iterate over the memory-mapped batches of a file."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def selected(path: Path, rows: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Iterate over batches of the rows with the indices ``rows``, ascending and of shape (n,)."""
    start = 0
    for batch in batches(path):
        first, last = np.searchsorted(rows, (start, start + batch.num_rows))
        if first < last:
            yield batch.take(integers(rows[first:last] - start))
        start += batch.num_rows
