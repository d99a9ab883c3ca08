"""Read the rows of data files: one module a format.

An invalid row is returned as a BadRow in its position, so that the caller can count, drop or reject it. An invalid file
is a StageFailure.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers import columnar, delimited, documents, json_rows, squad
from finetune_trainer.prepare.readers.values import Row, Values, type_name, wrong_characters
from finetune_trainer.prepare.sources import DataFile, FileKind
from finetune_trainer.storage.errors import explained_path

__all__ = ["Row", "Values", "columns_of", "read_rows", "type_name", "wrong_characters"]

_LOOK_AHEAD = 100


def columns_of(file: DataFile) -> tuple[str, ...] | None:
    """Column names: those of the header or schema, or the keys of the first valid JSON row; None without rows.

    Raises:
        StageFailure: BadData when the file does not have its format, or the header has a duplicate column.
    """
    with explained_path(file.path, "read"):
        match file.kind:
            case FileKind.PARQUET | FileKind.ARROW:
                return columnar.columns(file)
            case FileKind.CSV | FileKind.TSV:
                return delimited.columns(file)
            case FileKind.SQUAD:
                return squad.COLUMNS
            case FileKind.TEXT:
                return documents.COLUMNS
        for _, (_, values) in zip(range(_LOOK_AHEAD), json_rows.rows(file), strict=False):
            if not isinstance(values, BadRow):
                return tuple(values)
    return None


def read_rows(file: DataFile, wanted: tuple[str, ...]) -> Iterator[Row]:
    """Iterate over all rows of ``file``, with at least those of the columns ``wanted`` that it has.

    Raises:
        StageFailure: BadData when the file does not have its format.
    """
    with explained_path(file.path, "read"):
        match file.kind:
            case FileKind.PARQUET | FileKind.ARROW:
                yield from columnar.rows(file, wanted)
            case FileKind.CSV | FileKind.TSV:
                yield from delimited.rows(file)
            case FileKind.JSONL | FileKind.JSON_ARRAY:
                yield from json_rows.rows(file)
            case FileKind.SQUAD:
                yield from squad.rows(file)
            case FileKind.TEXT:
                yield from documents.rows(file)
