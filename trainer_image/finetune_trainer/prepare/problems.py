"""What can be wrong with one row, and with a data set that has too many such rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepared import InvalidRow

REPORTED_ROWS = 100
"""Invalid rows that the data report shows."""


class BadRow(Exception):
    """One row cannot be used. The message completes the sentence ``<file>:<line>: …``, with what to do."""


@dataclass
class Tally:
    """Rows of one data set: how many were read, and which were invalid."""

    uri: str
    allowed_share: float
    rows: int = 0
    invalid: int = 0
    _kept: list[tuple[int, str, InvalidRow]] = field(default_factory=list)

    def reject(self, row: int, where: str, invalid: InvalidRow) -> None:
        """Count the ``row``-th row as invalid; ``where`` is its place in full, for the failure.

        Rows come nearly in order only: some are found to be invalid when they are tokenised.
        """
        self.invalid += 1
        self._kept.append((row, where, invalid))
        if len(self._kept) > 4 * REPORTED_ROWS:
            self._kept = self._first()

    @property
    def reported(self) -> list[InvalidRow]:
        """The first invalid rows, in order."""
        return [invalid for _, _, invalid in self._first()]

    def _first(self) -> list[tuple[int, str, InvalidRow]]:
        return sorted(self._kept, key=lambda kept: kept[0])[:REPORTED_ROWS]

    @property
    def hopeless(self) -> bool:
        """Whether the rest is read only to be counted."""
        return self.invalid > 0 and self.allowed_share == 0

    def check(self) -> None:
        """Fail when nothing was read, or more was invalid than may be dropped.

        Raises:
            StageFailure: BadData.
        """
        if self.rows == 0:
            raise StageFailure(Reason.BAD_DATA, f"{self.uri} has no rows: add examples or correct the address")
        if not self.invalid or self.invalid <= self.allowed_share * self.rows:
            return
        _, where, first = self._first()[0]
        counted = f"{self.invalid} of {self.rows} rows {'is' if self.invalid == 1 else 'are'} invalid"
        raise StageFailure(
            Reason.BAD_DATA,
            f"{where}: {first.problem} ({counted}, {percent(self.invalid / self.rows)}{self._mostly(first.problem)}; "
            f"dataset.cleaning.dropInvalid allows {percent(self.allowed_share)})",
        )

    def _mostly(self, first: str) -> str:
        """What else is wrong more often than the first row's problem, which alone would send its reader astray."""
        problems = Counter(invalid.problem for invalid in self.reported)
        problem, count = problems.most_common(1)[0]
        return f", most often: {problem}" if count > problems[first] else ""


def percent(share: float) -> str:
    """``share`` with up to three significant digits, such as ``0.83 %``."""
    return f"{100 * share:.3g} %"
