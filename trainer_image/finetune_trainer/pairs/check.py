"""Finds rows whose target is a copy of their source."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from finetune_api.failures import Reason, StageFailure

_MOST_LISTED = 5


class CopiedTargets:
    """Counts rows of all splits whose target equals their source.

    White space and case do not count. Names may stay as they are, and a short text may be its own summary, so such rows
    are reported and not refused.
    """

    def __init__(self, fields: tuple[str, str]) -> None:
        """``fields`` are the fields of dataset.columns with source and target."""
        self._fields = fields
        self._rows = 0
        self._equal: list[str] = []

    def see(self, batch: pa.RecordBatch) -> None:
        """Count those of a batch: ``prompt`` is the source, ``reference`` the target, ``source`` file and line."""
        columns = (batch.column(name).to_pylist() for name in ("prompt", "reference", "source"))
        for source, target, place in zip(*columns, strict=True):
            self._rows += 1
            if plain(source) == plain(target):
                self._equal.append(place)

    def notes(self) -> Sequence[str]:
        """What the user should know about them.

        Raises:
            StageFailure: BadData when there are no other rows, which teach nothing.
        """
        if not self._equal:
            return ()
        source, target = self._fields
        if len(self._equal) == self._rows:
            raise StageFailure(
                Reason.BAD_DATA,
                f"The {target} of each of the {self._rows:,} rows equals its {source}, so there is nothing to learn: "
                f"check dataset.columns.{source} and dataset.columns.{target}",
            )
        # The rows of the splits come one after the other.
        self._equal.sort(key=_file_and_line)
        places = ", ".join(self._equal[:_MOST_LISTED]) + (", …" if len(self._equal) > _MOST_LISTED else "")
        return (f"the {target} equals the {source} in {len(self._equal):,} of {self._rows:,} rows: {places}",)


def _file_and_line(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line)


def plain(text: str) -> str:
    """``text`` without differences in white space and case."""
    return " ".join(text.split()).casefold()
