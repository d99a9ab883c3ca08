"""From the columns of a row to an example, or to what is wrong with it: what all tasks have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import Values, columns_of, type_name
from finetune_trainer.prepare.sources import DataFile, FileKind


class Example(Protocol):
    """One example of a task, before it is tokenised."""

    @property
    def characters(self) -> int:
        """Its length, which bounds how many are tokenised at once."""

    @property
    def content(self) -> Sequence[str]:
        """The texts that tell it from other examples; of two with the same content one is a duplicate."""


class RowSchema(Protocol):
    """Which columns of a data set make an example, and how."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a row must have."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of dataset.columns that name them, in the same order."""

    def example(self, values: Values) -> Example:
        """The example of a row.

        Raises:
            BadRow: The row has none.
        """


def check_headers(files: Iterable[DataFile], schema: RowSchema) -> None:
    """Check the header or schema of each file for the columns that are needed.

    Raises:
        StageFailure: BadData, when one lacks a column.
    """
    for file in files:
        _check_header(file, schema)


def _check_header(file: DataFile, schema: RowSchema) -> None:
    """JSON rows may differ from each other, so each is checked when it is read."""
    if file.kind is FileKind.JSONL or (names := columns_of(file)) is None:
        return
    for column, field in zip(schema.needed, schema.fields, strict=True):
        if column not in names:
            where = file.uri if file.kind is FileKind.PARQUET else file.at(1)
            raise StageFailure(Reason.BAD_DATA, f"{where}: {missing(column, field, names)}")


def value_of(values: Values, column: str, field: str) -> Any:
    try:
        return values[column]
    except KeyError:
        raise BadRow(missing(column, field, values)) from None


def missing(column: str, field: str, names: Iterable[str]) -> str:
    listed = [f"'{name[:40]}'" for name in names]
    there = ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "") if listed else "no column at all"
    return f"column '{column}' is missing, there is {there}; name the right column in dataset.columns.{field}"


def text_of(values: Values, column: str, field: str) -> str:
    return checked(value_of(values, column, field), f"column '{column}'")


def checked(value: object, what: str) -> str:
    """``value`` if it is text that says something and can be stored."""
    if not isinstance(value, str):
        raise BadRow(f"{what} holds {type_name(value)}, not text; correct it")
    if not value or value.isspace():
        raise BadRow(f"{what} is empty; fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{what} holds half of a surrogate pair (such as \\ud83d alone); correct it") from None
    return value
