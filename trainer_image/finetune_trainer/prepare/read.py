"""Read one data set: validate, deduplicate and tokenise its rows, and write them to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.prepare.arrays import int32s, list_lengths, texts
from finetune_trainer.prepare.dedupe import content_key, group_key
from finetune_trainer.prepare.encoded import Tokeniser
from finetune_trainer.prepare.problems import BadRow, Tally
from finetune_trainer.prepare.readers import Values, read_rows
from finetune_trainer.prepare.rows import Example, RowSchema
from finetune_trainer.prepare.slices import SliceReader
from finetune_trainer.prepare.sources import DataFile
from finetune_trainer.prepare.spool import TableWriter
from finetune_trainer.prepared import InvalidRow

EXAMPLES_AT_ONCE = 2048
CHARACTERS_AT_ONCE = 4 << 20


@dataclass
class DataSet:
    """The valid rows of one data set, without duplicates.

    ``spool`` is an Arrow file with the columns of the task and ``source``. Its rows are in the order of ``keys``
    (content keys), ``lengths`` (tokens, of shape (rows,)) and ``truncated`` (of shape (rows,)).
    """

    spool: Path
    schema: pa.Schema
    tally: Tally
    keys: list[bytes]
    lengths: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    duplicates: int
    """Rows that were dropped because an earlier row has the same content and answer."""
    highest_token: int
    """Highest token id; -1 without tokens."""
    unknown_tokens: int
    """Tokens that stand for text which the tokenizer does not know."""
    contradicting: int
    """Rows whose content an earlier row has with another answer; they are dropped as well if duplicates are."""
    groups: list[bytes] = field(default_factory=list)
    """The group of each row, which is in one split, in the order of ``keys``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a row: its file, its line, and its number in the data set from 1."""

    file: DataFile
    line: int
    row: int

    @property
    def source(self) -> str:
        """``<file>:<line>``, the value of the column ``source``."""
        return f"{self.file.name}:{self.line}"

    def reject(self, tally: Tally, problem: BadRow) -> None:
        """Count the row at this position as invalid."""
        invalid = InvalidRow(file=self.file.name, line=self.line, problem=str(problem))
        tally.reject(self.row, self.file.at(self.line), invalid)


OnValid = Callable[[Place, Example], None]
"""Called with a valid row."""


@dataclass
class _Batch:
    examples: list[Example] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    characters: int = 0


def read_data_set(
    files: Iterable[DataFile],
    schema: RowSchema,
    tokeniser: Tokeniser,
    tally: Tally,
    spool: Path,
    *,
    unknown_id: int | None,
    deduplicate: bool,
    slices: SliceReader,
    on_rows: Callable[[int], None],
    on_valid: OnValid = lambda _, __: None,
) -> DataSet:
    """Read all rows of ``files`` and write the valid ones to ``spool``.

    Args:
        files: The files of the data set, in order.
        schema: Converts the values of a row into an example.
        tokeniser: Tokenises batches of examples.
        tally: Counts the rows of this data set.
        spool: Path of the Arrow file.
        unknown_id: The token id for text that the tokenizer does not know; None if it knows every text.
        deduplicate: Keep only the first of equal rows.
        slices: Reads the columns of evaluation.slices; has none if the data set has no test rows.
        on_rows: Called after each batch with the number of rows read so far.
        on_valid: Called with each valid row, in the order in which it is written.

    Raises:
        StageFailure: BadData when there are no rows or too many invalid ones, or a file does not have its format.
    """
    found = collect(
        _examples(files, schema, tally, slices),
        tokeniser,
        tally,
        spool,
        unknown_id=unknown_id,
        deduplicate=deduplicate,
        slices=slices,
        on_rows=on_rows,
        on_valid=on_valid,
    )
    tally.check()
    slices.check_read()
    return found


def collect(
    examples: Iterable[tuple[Place, Example, str]],
    tokeniser: Tokeniser,
    tally: Tally,
    spool: Path,
    *,
    unknown_id: int | None,
    deduplicate: bool,
    slices: SliceReader,
    on_rows: Callable[[int], None] = lambda _: None,
    on_valid: OnValid = lambda _, __: None,
) -> DataSet:
    """Tokenise ``examples``, each with its place and the values of its slices, and write the valid ones to ``spool``.

    Memory use is one batch plus about 200 bytes per row, or 250 of rows in groups. The other arguments are those of
    `read_data_set`.
    """
    keys: list[bytes] = []
    groups: list[bytes] = []
    answers: dict[bytes, int] = {}  # The hash of the first answer, to save memory.
    lengths: list[npt.NDArray[np.int64]] = []
    truncated: list[npt.NDArray[np.bool_]] = []
    duplicates = contradicting = 0
    highest, unknown = -1, 0
    columns = pa.schema([*tokeniser.fields, pa.field("source", pa.string()), *slices.fields])
    with TableWriter(spool, columns) as writer:

        def flush(batch: _Batch) -> None:
            nonlocal highest, unknown
            if tally.hopeless or not batch.examples:
                return
            encoded = tokeniser.encode(batch.examples)
            for index, problem in encoded.problems.items():
                batch.places[index].reject(tally, problem)
            valid = [index for index in range(len(batch.examples)) if index not in encoded.problems]
            sources = texts([batch.places[index].source for index in valid])
            of_slices = slices.arrays([batch.slices[index] for index in valid])
            writer.write(pa.RecordBatch.from_arrays([*encoded.columns.values(), sources, *of_slices], schema=columns))
            keys.extend(batch.keys[index] for index in valid)
            groups.extend(batch.groups[index] for index in valid)
            for index in valid:
                on_valid(batch.places[index], batch.examples[index])
            columns_of_tokens = [encoded.columns[name] for name in encoded.tokens]
            lengths.append(np.sum([list_lengths(column) for column in columns_of_tokens], axis=0, dtype=np.int64))
            truncated.append(encoded.truncated)
            for column in columns_of_tokens:
                tokens = int32s(column.flatten())
                highest = max(highest, int(tokens.max(initial=-1)))
                unknown += 0 if unknown_id is None else int((tokens == unknown_id).sum())
            on_rows(tally.rows)

        batch = _Batch()
        for place, example, values in examples:
            key = content_key(example)
            if key in answers:
                contradicts = answers[key] != hash(example.answer)
                contradicting += contradicts
                if deduplicate:
                    duplicates += not contradicts
                    continue
            else:
                answers[key] = hash(example.answer)
            batch.examples.append(example)
            batch.keys.append(key)
            batch.groups.append(group_key(example, key))
            batch.places.append(place)
            batch.slices.append(values)
            batch.characters += example.characters
            if len(batch.examples) >= EXAMPLES_AT_ONCE or batch.characters >= CHARACTERS_AT_ONCE:
                flush(batch)
                batch = _Batch()
        flush(batch)
    return DataSet(
        spool=spool,
        schema=columns,
        tally=tally,
        keys=keys,
        groups=groups,
        lengths=np.concatenate([np.empty(0, np.int64), *lengths]),
        truncated=np.concatenate([np.empty(0, np.bool_), *truncated]),
        duplicates=duplicates,
        contradicting=contradicting,
        highest_token=highest,
        unknown_tokens=unknown,
    )


def _examples(
    files: Iterable[DataFile], schema: RowSchema, tally: Tally, slices: SliceReader
) -> Iterator[tuple[Place, Example, str]]:
    wanted = (*schema.needed, *schema.optional, *slices.columns)
    for file in files:
        for line, values in read_rows(file, wanted):
            tally.rows += 1
            place = Place(file, line, tally.rows)
            try:
                if isinstance(values, BadRow):
                    raise values
                example = schema.example(values)
            except BadRow as problem:
                place.reject(tally, problem)
            else:
                yield place, example, _of_slices(slices, values, place)


def _of_slices(slices: SliceReader, values: Values, place: Place) -> str:
    """The values of evaluation.slices of a row.

    Raises:
        StageFailure: BadData when one is no text. The row is not dropped, because the slices decide about no row.
    """
    try:
        return slices.read(values)
    except BadRow as problem:
        raise StageFailure(Reason.BAD_DATA, f"{place.file.at(place.line)}: {problem}") from None
