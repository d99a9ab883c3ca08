"""List, download and hash the files of a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME
from finetune_api.spec import DataFormat
from finetune_trainer import storage
from finetune_trainer.manifests import hash_files
from finetune_trainer.prepared import SourceFile


class FileKind(Enum):
    """Format of a file; the value is its name in messages."""

    JSONL = "JSON lines"
    CSV = "CSV"
    TSV = "tab-separated"
    PARQUET = "Parquet"


KIND_OF_SUFFIX = {
    ".jsonl": FileKind.JSONL,
    ".ndjson": FileKind.JSONL,
    ".json": FileKind.JSONL,
    ".csv": FileKind.CSV,
    ".tsv": FileKind.TSV,
    ".parquet": FileKind.PARQUET,
}

_KINDS_OF_FORMAT = {
    DataFormat.AUTO: tuple(FileKind),
    DataFormat.JSONL: (FileKind.JSONL,),
    DataFormat.CSV: (FileKind.CSV, FileKind.TSV),
    DataFormat.PARQUET: (FileKind.PARQUET,),
    DataFormat.OPENAI_CHAT: (FileKind.JSONL, FileKind.PARQUET),
}


@dataclass(frozen=True)
class DataFile:
    """A local copy of one file of a data set.

    ``name`` is its path relative to the data set's address, ``uri`` its full address, ``size`` is in bytes.
    """

    uri: str
    name: str
    path: Path
    kind: FileKind
    size: int
    sha256: str

    def at(self, line: int) -> str:
        """The full position of a row for messages; lines, and rows of a Parquet file, count from 1."""
        return f"{self.uri} row {line}" if self.kind is FileKind.PARQUET else f"{self.uri}:{line}"

    @property
    def source(self) -> SourceFile:
        """The entry of this file in the data report."""
        return SourceFile(uri=self.uri, size=self.size, sha256=self.sha256)


def fetch_files(uri: str, data_format: DataFormat, scratch: Path) -> tuple[DataFile, ...]:
    """Download the data files at ``uri``, which is a file or a directory, in order of name.

    In a directory, paths with a part that starts with ``.`` or ``_`` and files of other formats are ignored.

    Args:
        uri: Address of the data set.
        data_format: The format in the spec.
        scratch: Directory for downloads.

    Raises:
        StageFailure: NotFound when neither exists, BadConfiguration when the format is unknown, BadData when a
            directory has no data file; otherwise as functions of `storage`.
    """
    if storage.exists(uri):
        name = PurePosixPath(uri).name
        return (_fetch(uri, name, _kind_of_file(uri, name, data_format), scratch),)
    listed = [path for path, _ in storage.list_files(uri)]
    if not listed:
        raise StageFailure(Reason.NOT_FOUND, f"There is no data at {uri}: correct the address, or upload the data")
    kinds = _KINDS_OF_FORMAT[data_format]
    chosen = [(path, kind) for path in listed if (kind := _kind_in_directory(path)) in kinds and kind is not None]
    if not chosen:
        suffixes = ", ".join(suffix for suffix, kind in KIND_OF_SUFFIX.items() if kind in kinds)
        raise StageFailure(
            Reason.BAD_DATA, f"{uri} has no file that ends in {suffixes}, only {_some(listed)}: rename the data files"
        )
    return tuple(_fetch(storage.join(uri, path), path, kind, scratch) for path, kind in chosen)


def _fetch(uri: str, name: str, kind: FileKind, scratch: Path) -> DataFile:
    path = storage.localise(uri, scratch)
    (entry,) = hash_files(path.parent, [path.name])
    return DataFile(uri=uri, name=name, path=path, kind=kind, size=entry.size, sha256=entry.sha256)


def _kind_in_directory(path: str) -> FileKind | None:
    pure = PurePosixPath(path)
    if any(part.startswith((".", "_")) for part in pure.parts) or pure.name == MANIFEST_NAME:
        return None
    return KIND_OF_SUFFIX.get(pure.suffix.lower())


def _kind_of_file(uri: str, name: str, data_format: DataFormat) -> FileKind:
    """The format of a single file; its name is free if the spec sets the format."""
    kinds = _KINDS_OF_FORMAT[data_format]
    kind = KIND_OF_SUFFIX.get(PurePosixPath(name).suffix.lower())
    if kind in kinds and kind is not None:
        return kind
    if data_format is DataFormat.AUTO:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The format of {uri} is not clear from its name: set dataset.format, or rename the file to end in "
            f"{', '.join(KIND_OF_SUFFIX)}",
        )
    return kinds[0]


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
