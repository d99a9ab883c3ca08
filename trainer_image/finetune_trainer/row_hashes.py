"""Hashes of rows: which rows a published model was trained on, so that no later model is measured on them.

A hash is the first 8 bytes of the key of a row, a BLAKE2b hash of its content (`finetune_trainer.prepare.dedupe`), as a
little-endian integer. Among a million test rows and a hundred million training rows, one is mistaken for another with a
probability of 5 · 10⁻⁶. The file has 8 bytes for each row. It does not tell what a row says, but whoever has the text
of a row can find out whether it is among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finetune_api import layout

Hashes = npt.NDArray[np.uint64]

_COMPLETE = "complete"
_BYTES = 8


def hashes_of(keys: Sequence[bytes], rows: Iterable[int]) -> Hashes:
    """The hashes of ``rows``, by their indices in ``keys``; of shape (rows,)."""
    return np.frombuffer(b"".join(keys[row][:_BYTES] for row in rows), dtype="<u8").astype(np.uint64)


@dataclass(frozen=True)
class LearnedRows:
    """The rows that a model was trained on, by task, because each task has its own content of a row."""

    by_task: Mapping[str, Hashes] = field(default_factory=dict)
    complete: bool = True
    """Whether all are known; False if it continues from an adapter that does not say."""

    def of(self, task: str, rows: Hashes) -> npt.NDArray[np.bool_]:
        """Whether the model was trained on each of ``rows`` for ``task``; of shape (rows,)."""
        return np.isin(rows, self.by_task.get(task, np.empty(0, np.uint64)))

    def with_rows(self, task: str, rows: Hashes) -> LearnedRows:
        """These rows, and ``rows`` for ``task``."""
        known = self.by_task.get(task, np.empty(0, np.uint64))
        return LearnedRows({**self.by_task, task: np.union1d(known, rows)}, self.complete)

    def write(self, directory: Path) -> None:
        """Write ``learned-rows.npz`` to ``directory``."""
        arrays = {str(task): self.by_task[task] for task in sorted(self.by_task)}
        flags = {_COMPLETE: np.array(self.complete)}
        np.savez(directory / layout.LEARNED_ROWS, allow_pickle=False, **flags, **arrays)


def read_learned(directory: Path) -> LearnedRows:
    """Read ``learned-rows.npz`` in ``directory``; without one, no row is known, and the result is not complete."""
    path = directory / layout.LEARNED_ROWS
    if not path.is_file():
        return LearnedRows(complete=False)
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    complete = bool(arrays.pop(_COMPLETE, False))
    return LearnedRows(arrays, complete)


def write_test_rows(directory: Path, rows: Hashes) -> None:
    """Write the hashes of the test rows, in their order, to ``directory``."""
    np.save(directory / layout.TEST_ROWS, rows, allow_pickle=False)


def read_test_rows(directory: Path) -> Hashes:
    """The hashes of the test rows in ``directory``, in their order."""
    rows: Hashes = np.load(directory / layout.TEST_ROWS, allow_pickle=False)
    return rows
