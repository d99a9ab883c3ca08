"""Parquet and Arrow files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.exceptions import first_line
from finetune_trainer.prepare.problems import BadRow
from finetune_trainer.prepare.readers.values import Row
from finetune_trainer.prepare.sources import DataFile, FileKind

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 64 << 20
_FILE_MAGIC = b"ARROW1"


def columns(file: DataFile) -> tuple[str, ...]:
    """The names in the schema.

    Raises:
        StageFailure: BadData when the file is invalid or has a column twice.
    """
    with _explained(file):
        return _names(file, _schema(file))


def rows(file: DataFile, wanted: Sequence[str]) -> Iterator[Row]:
    """Iterate over the rows with those of the columns ``wanted`` that exist.

    The values of a ClassLabel column of ``datasets`` are its names. Nested objects have no keys without a value.

    Raises:
        StageFailure: BadData when the file is invalid or has a column twice.
    """
    with _explained(file):
        schema = _schema(file)
        names = _names(file, schema)
        chosen = [name for name in dict.fromkeys(wanted) if name in names]
        class_names = _class_names(schema)
        number = 0
        for batch in _batches(file, chosen):
            values = {name: _values(batch.column(name), class_names.get(name)) for name in chosen}
            for index in range(batch.num_rows):
                number += 1
                row = {name: column[index] for name, column in values.items()}
                problem = next((value for value in row.values() if isinstance(value, BadRow)), None)
                yield number, problem or row


def _schema(file: DataFile) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.kind is FileKind.PARQUET:
        return pq.read_schema(file.path)
    with pa.memory_map(str(file.path)) as source:
        return _arrow(file, source).schema


def _names(file: DataFile, schema: Any) -> tuple[str, ...]:
    names = tuple(schema.names)
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise StageFailure(
            Reason.BAD_DATA, f"{file.uri}: the schema has the column '{duplicate[:40]}' twice: rename one of them"
        )
    return names


def _batches(file: DataFile, chosen: list[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.kind is FileKind.PARQUET:
        with pq.ParquetFile(file.path) as parquet:
            yield from parquet.iter_batches(batch_size=_rows_at_once(parquet.metadata), columns=chosen)
        return
    with pa.memory_map(str(file.path)) as source:
        reader = _arrow(file, source)
        count = getattr(reader, "num_record_batches", None)
        for batch in reader if count is None else map(reader.get_batch, range(count)):
            part = batch.select(chosen)
            _check_offsets(part)
            for start in range(0, part.num_rows, _ROWS_AT_ONCE):
                yield part.slice(start, _ROWS_AT_ONCE)


def _arrow(file: DataFile, source: Any) -> Any:
    import pyarrow as pa

    with file.path.open("rb") as stream:
        is_file = stream.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)


def _rows_at_once(metadata: Any) -> int:
    """As many rows as fit into `_BYTES_AT_ONCE` on average."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    bytes_a_row = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, bytes_a_row)))


def _check_offsets(batch: Any) -> None:
    """Check lengths and offsets, at which Arrow reads without a check; a wrong one could end the process.

    Text is checked as bytes: if it is not UTF-8, only its row is invalid.
    """
    batch.validate()
    for column in batch.columns:
        column.view(_with_bytes(column.type)).validate(full=True)


def _with_bytes(kind: Any) -> Any:
    """An Arrow type with binary instead of string."""
    import pyarrow as pa

    plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if kind in plain:
        return plain[kind]
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_bytes(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_bytes(kind.value_type)))
    return kind


def _values(column: Any, class_names: Sequence[str] | None) -> list[Any]:
    """The values of a column; a BadRow in place of a value that is not UTF-8 or not a class."""
    import pyarrow as pa

    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
    if class_names is not None:
        return [_class_name(value, class_names) for value in values]
    if pa.types.is_decimal(column.type):
        # Databases store whole numbers as decimals.
        return [value if value is None else int(value) if value == int(value) else float(value) for value in values]
    nested = column.type.num_fields > 0
    return [_without_nulls(value) for value in values] if nested else values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} of a text (0x{error.object[error.start]:02x})"
        return BadRow(f"{found} is not UTF-8; write the file with UTF-8 text")


def _without_nulls(value: Any) -> Any:
    """``value`` as it was before Arrow gave all objects of a column the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _class_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        found = [_class_name(item, names) for item in value]
        return next((item for item in found if isinstance(item, BadRow)), found)
    if not isinstance(value, int):
        return value
    if 0 <= value < len(names):
        return names[value]
    return BadRow(f"{value} is not one of the {len(names)} classes that the file names; label the row or remove it")


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names of the classes of each column of ClassLabels or of lists of them, which ``datasets`` stores in the
    metadata of the schema.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        items = {name: _item_feature(feature) for name, feature in features.items()}
        listed = {name: feature["names"] for name, feature in items.items() if _is_class_label(feature)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: tuple(names) for name, names in listed.items() if _are_texts(names)}


def _item_feature(feature: Any) -> Any:
    """The feature of the items of a list; ``feature`` if it is no list."""
    return feature["feature"] if feature.get("_type") in ("List", "Sequence") else feature


def _is_class_label(feature: object) -> bool:
    return isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"


def _are_texts(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


@contextmanager
def _explained(file: DataFile) -> Iterator[None]:
    """Convert exceptions of Arrow. Its OSError has no errno; one with an errno comes from the disk."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first = first_line(error).rstrip(". ")[:200]
        kind = file.kind.value
        raise StageFailure(
            Reason.BAD_DATA, f"{file.uri} is not a valid {kind} file ({first}): write it again"
        ) from None
