"""Converts the columns of a row to an example; common to all tasks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, columns_of, type_name, wrong_characters
from finetune_trainer.prepare.sources import DataFile, FileKind

_COLUMN_NAME = re.compile(r"[\w .,;|/()#%&?+*'-]{1,40}")

UNANSWERED = "?"
"""The answer of a row without one, until a teacher has answered it."""

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""In lower case."""


class Example(Protocol):
    """An example of a task before tokenisation."""

    @property
    def characters(self) -> int:
        """Length in characters, which limits how many examples are tokenised at a time."""

    @property
    def content(self) -> str:
        """The text that tells it from other examples. Splits are drawn by it: a change of its form changes every
        split."""

    @property
    def answer(self) -> str:
        """What an example with this content should have as the answer, such as its label; empty if ``content``
        contains everything. Two examples with the same content are duplicates, or contradict each other."""


@runtime_checkable
class Grouped(Protocol):
    """An example that is in the same split as all others of its group."""

    @property
    def group(self) -> str:
        """What the examples of a group have in common, such as the text that they are about."""


class RowSchema(Protocol):
    """How the columns of a dataset become examples."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a row must have."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of dataset.columns that set the names of ``needed``, in the same order."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that a row may have."""

    def example(self, values: Values) -> Example:
        """Convert a row to an example.

        Raises:
            BadRow: The row is invalid.
        """


Schema = TypeVar("Schema", bound=RowSchema)


@dataclass(frozen=True)
class OpenSchema(Generic[Schema]):
    """The columns of rows that may lack all but the first one, because a teacher writes the answer."""

    schema: Schema
    """That of rows with an answer."""

    @property
    def needed(self) -> tuple[str, ...]:
        return self.schema.needed[:1]

    @property
    def fields(self) -> tuple[str, ...]:
        return self.schema.fields[:1]

    @property
    def optional(self) -> tuple[str, ...]:
        return *self.schema.optional, *self.schema.needed[1:]


def first_columns(files: Iterable[DataFile]) -> tuple[str, ...]:
    """The columns of the first row of the first file that has rows; empty if none has."""
    return next((names for file in files if (names := columns_of(file)) is not None), ())


def check_headers(files: Iterable[DataFile], schema: RowSchema) -> None:
    """Check that the header or schema of each file has the needed columns.

    Raises:
        StageFailure: BadData when a column is missing.
    """
    for file in files:
        _check_header(file, schema)


def _check_header(file: DataFile, schema: RowSchema) -> None:
    """Check a header or schema. JSON rows may have different keys, so each row is checked when it is read."""
    if file.kind in (FileKind.JSONL, FileKind.JSON_ARRAY) or (names := columns_of(file)) is None:
        return
    for column, field in zip(schema.needed, schema.fields, strict=True):
        if column not in names:
            where = file.at(1) if file.kind.has_lines else file.uri
            raise StageFailure(Reason.BAD_DATA, f"{where}: {missing(column, field, names)}")


def value_of(values: Values, column: str, field: str) -> Any:
    try:
        return values[column]
    except KeyError:
        raise BadRow(missing(column, field, values)) from None


def missing(column: str, field: str, names: Iterable[str]) -> str:
    present = listed_columns(names)
    return f"column '{column}' is missing (columns: {present}); set dataset.columns.{field} to the right column"


def listed_columns(names: Iterable[str]) -> str:
    """The first names of columns, for a message."""
    every = list(names)
    # A name with other characters is probably a row of a file that is no table, and is not shown.
    listed = [f"'{name}'" for name in every if _COLUMN_NAME.fullmatch(name)]
    return ", ".join([*listed[:8], *(["…"] if len(every) > len(listed[:8]) else [])]) or "none"


def text_of(values: Values, column: str, field: str) -> str:
    return checked(value_of(values, column, field), f"column '{column}'")


def truth_of(value: object) -> bool | None:
    """Whether a value says true or false; None if it says neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    return _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None


def checked(value: object, what: str) -> str:
    """Return ``value`` if it is text that shows something and can be encoded as UTF-8.

    Raises:
        BadRow: It is not.
    """
    if not isinstance(value, str):
        raise BadRow(f"{what} contains {type_name(value)}, not text; correct the row")
    if all(sign.isspace() or unicodedata.category(sign) == "Cf" for sign in value):
        raise BadRow(f"{what} is empty; fill it in or remove the row")
    if wrong := wrong_characters(value):
        raise BadRow(f"{what} {wrong}")
    return value
