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
class Alike:
    """Rows with the same problem, apart from numbers and details."""

    count: int = 0
    rows: list[tuple[int, InvalidRow]] = field(default_factory=list)
    """The first ones in order, with their numbers."""

    def add(self, row: int, invalid: InvalidRow) -> None:
        self.count += 1
        self.rows.append((row, invalid))
        if len(self.rows) > 2 * _PLACES + 2:
            self.rows = sorted(self.rows, key=lambda one: one[0])[: _PLACES + 1]

    @property
    def first(self) -> list[InvalidRow]:
        return [invalid for _, invalid in sorted(self.rows, key=lambda one: one[0])]


@dataclass
class Tally:
    """Counts the rows of one data set and collects the first invalid ones."""

    uri: str
    allowed_share: float
    rows: int = 0
    invalid: int = 0
    alike: dict[str, Alike] = field(default_factory=dict)
    """The invalid rows by problem, at most `REPORTED_ROWS` problems."""
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
        kind = _kind(invalid.problem)
        if kind in self.alike or len(self.alike) < REPORTED_ROWS:
            self.alike.setdefault(kind, Alike()).add(row, invalid)
        self._kept.append((row, where, invalid))
        if len(self._kept) > 4 * REPORTED_ROWS:
            self._kept = self._first()

    @property
    def problems(self) -> list[Alike]:
        """The invalid rows by problem, in the order of the first ones."""
        return sorted(self.alike.values(), key=lambda one: min(row for row, _ in one.rows))

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
        first = self._first()[0][2]
        alike = self.alike.get(_kind(first.problem), Alike())  # After many problems, others are only counted.
        others = [one for one in self.problems if one is not alike]
        text = f", also at {_places(alike.first[1:], first.file, _PLACES, alike.count - 1)}" if alike.count > 1 else ""
        for one in sorted(others, key=lambda one: -one.count)[:_OTHERS]:
            text += f"; {one.count} at {_places(one.first, first.file, _OTHERS, one.count)}: {one.first[0].problem}"
        return text + ("; …" if len(others) > _OTHERS else "")


def dropped(tallies: Iterable[Tally]) -> list[str]:
    """A note on why rows were dropped, the most frequent problem first; empty if none were."""
    listed = listed_problems(tallies)
    return [f"dropped rows: {listed}"] if listed else []


def listed_problems(tallies: Iterable[Tally]) -> str:
    """The most frequent problems of rows, with the places of the first ones."""
    return "; ".join(problem_lines(tallies, _OTHERS))


def problem_lines(tallies: Iterable[Tally], most: int) -> list[str]:
    """The problems of rows, the most frequent first: how often each occurs, the places of the first ones, and what it
    is.

    Such as ``2 at a.jsonl:3, a.jsonl:7: column 'text' is empty``. After ``most`` problems, a line counts the rows with
    others.
    """
    groups: dict[str, list[Alike]] = {}
    total = 0
    for tally in tallies:
        total += tally.invalid
        for alike in tally.problems:
            groups.setdefault(_kind(alike.rows[0][1].problem), []).append(alike)
    found = [
        (sum(one.count for one in parts), [row for one in parts for row in one.first]) for parts in groups.values()
    ]
    found = sorted(found, key=lambda one: -one[0])[:most]
    lines = [f"{count:,} at {_places(rows, '', _OTHERS, count)}: {rows[0].problem}" for count, rows in found]
    others = total - sum(count for count, _ in found)
    return [*lines, f"{others:,} for other reasons"] if others else lines


def _places(rows: Sequence[InvalidRow], file: str, most: int, count: int) -> str:
    """Lines of the first of ``count`` rows, with the name of another file than ``file``."""
    listed = ", ".join(f"{row.file if row.file != file else ''}:{row.line}" for row in rows[:most])
    return listed + (", …" if count > most else "")


def _kind(problem: str) -> str:
    """A problem without numbers and details in parentheses, which differ between rows."""
    return _DETAILS.sub("", problem)


def percent(share: float) -> str:
    """``share`` as a percentage with up to three significant digits, such as ``0.83 %``."""
    return f"{100 * share:.3g} %"
