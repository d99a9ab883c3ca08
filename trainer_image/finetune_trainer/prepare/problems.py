"""Invalid rows, and the failure of a data set that has too many of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepared import InvalidRow

_PLACES = 8
"""Places of invalid rows in a message, besides the first."""
_OTHERS = 3
"""Other problems in a message, and places of each."""
REPORTED_ROWS = 100
"""Maximum number of invalid rows in the data report."""

_DETAILS = re.compile(r"\([^)]*\)|\d+")


class BadRow(Exception):
    """An invalid row. The message follows ``<file>:<line>: `` and says what is wrong and what to do."""


@contextmanager
def row_explained(number: int) -> Iterator[None]:
    """Convert a `BadRow` into a failure that names the row by its number.

    Raises:
        StageFailure: BadData.
    """
    try:
        yield
    except BadRow as problem:
        raise StageFailure(Reason.BAD_DATA, f"row {number}: {problem}") from None


@dataclass
class Tally:
    """Counts the rows of one data set and collects the first invalid ones."""

    uri: str
    allowed_share: float
    rows: int = 0
    invalid: int = 0
    _kept: list[tuple[int, str, InvalidRow]] = field(default_factory=list)

    def reject(self, row: int, where: str, invalid: InvalidRow) -> None:
        """Count an invalid row.

        Calls are only roughly in the order of the rows, because some are found invalid during tokenisation.

        Args:
            row: Number of the row in the data set.
            where: Its full position, for the message of the failure.
            invalid: Its entry in the data report.
        """
        self.invalid += 1
        self._kept.append((row, where, invalid))
        if len(self._kept) > 4 * REPORTED_ROWS:
            self._kept = self._first()

    @property
    def reported(self) -> list[InvalidRow]:
        """The first invalid rows in order, at most `REPORTED_ROWS`."""
        return [invalid for _, _, invalid in self._first()]

    def _first(self) -> list[tuple[int, str, InvalidRow]]:
        return sorted(self._kept, key=lambda kept: kept[0])[:REPORTED_ROWS]

    @property
    def hopeless(self) -> bool:
        """Whether the data set is certain to be rejected, so that the remaining rows are only counted."""
        return self.invalid > 0 and self.allowed_share == 0

    def check(self) -> None:
        """Check that there are rows, and that no more are invalid than ``dataset.cleaning.dropInvalid`` allows.

        Raises:
            StageFailure: BadData when either is not the case.
        """
        if self.rows == 0:
            raise StageFailure(Reason.BAD_DATA, f"{self.uri} has no rows: add examples or correct the address")
        if not self.invalid or self.invalid <= self.allowed_share * self.rows:
            return
        _, where, first = self._first()[0]
        counted = f"{self.invalid} of {self.rows} rows {'is' if self.invalid == 1 else 'are'} invalid"
        raise StageFailure(
            Reason.BAD_DATA,
            f"{where}: {first.problem} ({counted}, {percent(self.invalid / self.rows)}{self._others()}; "
            f"dataset.cleaning.dropInvalid allows {percent(self.allowed_share)})",
        )

    def _others(self) -> str:
        """Where the rows with the problem of the first one are, and the other problems, the most frequent first."""
        alike, *others = by_problem(self.reported)
        text = f", also at {_places(alike[1:], alike[0].file, _PLACES)}" if len(alike) > 1 else ""
        for rows in sorted(others, key=len, reverse=True)[:_OTHERS]:
            text += f"; {len(rows)} at {_places(rows, alike[0].file, _OTHERS)}: {rows[0].problem}"
        return text + ("; …" if len(others) > _OTHERS else "")


def by_problem(rows: Iterable[InvalidRow]) -> list[list[InvalidRow]]:
    """Invalid rows with the same problem, in the order of the first ones."""
    groups: dict[str, list[InvalidRow]] = {}
    for row in rows:
        groups.setdefault(_kind(row.problem), []).append(row)
    return list(groups.values())


def dropped(rows: Sequence[InvalidRow]) -> list[str]:
    """A note on why rows were dropped, the most frequent problem first; empty if none were."""
    return [f"dropped rows: {listed_problems(rows)}"] if rows else []


def listed_problems(rows: Sequence[InvalidRow]) -> str:
    """The most frequent problems of rows, with the places of the first ones."""
    lines = problem_lines(rows)
    return f"{'; '.join(lines[:_OTHERS])}{'; …' if len(lines) > _OTHERS else ''}"


def problem_lines(rows: Sequence[InvalidRow]) -> list[str]:
    """Each problem of rows, the most frequent first: how often it occurs, the places of the first ones, and what it is.

    Such as ``2 at a.jsonl:3, a.jsonl:7: column 'text' is empty``.
    """
    groups = sorted(by_problem(rows), key=len, reverse=True)
    return [f"{len(rows)} at {_places(rows, '', _OTHERS)}: {rows[0].problem}" for rows in groups]


def _places(rows: Sequence[InvalidRow], file: str, most: int) -> str:
    """Lines of rows, with the name of another file than ``file``."""
    listed = ", ".join(f"{row.file if row.file != file else ''}:{row.line}" for row in rows[:most])
    return listed + (", …" if len(rows) > most else "")


def _kind(problem: str) -> str:
    """A problem without numbers and details in parentheses, which differ between rows."""
    return _DETAILS.sub("", problem)


def percent(share: float) -> str:
    """``share`` as a percentage with up to three significant digits, such as ``0.83 %``."""
    return f"{100 * share:.3g} %"
