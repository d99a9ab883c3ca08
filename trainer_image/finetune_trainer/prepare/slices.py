"""The columns of evaluation.slices: read with the rows, kept in the test split only, and never a feature."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.arrays import texts
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, columns_of, type_name
from finetune_trainer.prepare.rows import listed_columns
from finetune_trainer.prepare.sources import DataFile, FileKind

COLUMN = "slices"
"""The column of the prepared test split: a JSON list with the value of each column, or null, as text."""
FIELD = pa.field(COLUMN, pa.string())

MOST_VALUES = 50
"""Maximum number of values of a column; more of them are no slices."""
_LONGEST_VALUE = 200
_KNOWN = 100


class SliceReader:
    """Reads the values of the columns of one data set; without columns it reads nothing."""

    def __init__(self, columns: Sequence[str], uri: str) -> None:
        self.columns = tuple(columns)
        self._uri = uri
        self._seen: set[str] = set()
        # Hashes, because a column that is no slice may have as many values as rows.
        self._found: list[set[int]] = [set() for _ in columns]
        self._longest = [0 for _ in columns]
        self._known: dict[str, None] = {}

    @property
    def fields(self) -> list[pa.Field]:
        """The Arrow fields of what `arrays` returns."""
        return [FIELD] if self.columns else []

    def arrays(self, read: Sequence[str]) -> list[pa.Array]:
        """The columns of a batch of rows, which `read` has returned."""
        return [texts(read)] if self.columns else []

    def check_headers(self, files: Iterable[DataFile]) -> None:
        """Check the header or schema of each file that has one.

        Raises:
            StageFailure: BadData when it lacks a column.
        """
        for file in files:
            names = columns_of(file)
            if file.kind in (FileKind.JSONL, FileKind.JSON_ARRAY) or names is None:
                continue
            absent = [column for column in self.columns if column not in names]
            if absent:
                raise _missing(file.at(1) if file.kind.has_lines else file.uri, absent[0], names)

    def read(self, values: Values) -> str:
        """The values of a row, in the form of `COLUMN`.

        Raises:
            BadRow: A value cannot be written as text.
        """
        self._seen.update(column for column in self.columns if column in values)
        if len(self._known) < _KNOWN:
            self._known.update(dict.fromkeys(values))
        read = [_text(values.get(column), column) for column in self.columns]
        for index, value in enumerate(read):
            if value is not None:
                self._found[index].add(hash(value))
                self._longest[index] = max(self._longest[index], len(value))
        return json.dumps(read)

    def check_read(self) -> None:
        """Check, once all rows are read, that each column divides them into a number of slices.

        Raises:
            StageFailure: BadData when no row has a column, or it has too many values, or too long ones.
        """
        for column, found, longest in zip(self.columns, self._found, self._longest, strict=True):
            if column not in self._seen:
                raise _missing(self._uri, column, self._known)
            if len(found) > MOST_VALUES:
                raise StageFailure(
                    Reason.BAD_DATA,
                    f"evaluation.slices: column '{column}' of {self._uri} has {len(found):,} different values, more "
                    f"than {MOST_VALUES}: name a column with fewer values, such as a region or a source",
                )
            if longest > _LONGEST_VALUE:
                raise StageFailure(
                    Reason.BAD_DATA,
                    f"evaluation.slices: column '{column}' of {self._uri} has a value of {longest:,} characters, more "
                    f"than {_LONGEST_VALUE}: name a column with short values",
                )


def without_slices(schema: pa.Schema) -> pa.Schema:
    """The schema of a split that is not sliced."""
    return pa.schema([field for field in schema if field.name != COLUMN])


def _text(value: Any, column: str) -> str | None:
    """A value as it is; None if there is none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | dict | bytes):
        raise BadRow(f"column '{column}' of evaluation.slices contains {type_name(value)}; use text or a number")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(f"column '{column}' contains an unpaired surrogate, such as \\ud83d; correct the row") from None
    return text


def _missing(where: str, column: str, names: Iterable[str]) -> StageFailure:
    return StageFailure(
        Reason.BAD_DATA,
        f"{where}: evaluation.slices names the column '{column}', which the data with the test split does not have "
        f"(columns: {listed_columns(names)}); correct evaluation.slices",
    )
