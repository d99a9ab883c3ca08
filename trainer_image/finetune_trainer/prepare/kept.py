"""Keeps the valid rows of a data set on disk, before they are tokenised, in the order of its spool."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetune_trainer.prepare.read import Place
from finetune_trainer.prepare.rows import Example


class KeptRows:
    """Rows in a file of this process; memory use is a few bytes per row.

    Args:
        path: The file; it must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b")
        self._starts: list[int] = []

    def add(self, place: Place, example: Example) -> None:
        self._starts.append(self._file.tell())
        pickle.dump((place, example), self._file)

    def read(self, rows: Iterable[int]) -> Iterator[tuple[Place, Example]]:
        """The rows with these indices; none may be added afterwards."""
        for row in rows:
            self._file.seek(self._starts[row])
            yield pickle.load(self._file)

    def close(self) -> None:
        self._file.close()
