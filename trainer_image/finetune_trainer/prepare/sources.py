"""The files of a data set: found, brought to this machine and hashed."""

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
    """How the bytes of a file are read; the value is how messages call it."""

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
    """One file of a data set, on this machine.

    ``name`` is its path below the data set's address, and ``uri`` its own address.
    """

    uri: str
    name: str
    path: Path
    kind: FileKind
    size: int
    sha256: str

    def at(self, line: int) -> str:
        """Where a row stands, in full: lines count from 1 and so do the rows of a Parquet file."""
        return f"{self.uri} row {line}" if self.kind is FileKind.PARQUET else f"{self.uri}:{line}"

    @property
    def source(self) -> SourceFile:
        return SourceFile(uri=self.uri, size=self.size, sha256=self.sha256)


def fetch_files(uri: str, data_format: DataFormat, scratch: Path) -> tuple[DataFile, ...]:
    """The data files at ``uri``, one file or a directory, in order of name.

    Of a directory, files that begin with ``.`` or ``_`` and files of other formats are left out.

    Raises:
        StageFailure: NotFound when nothing is there, BadConfiguration when the format is unknown, BadData when a
            directory has no data file, and what storage raises.
    """
    if storage.exists(uri):
        name = PurePosixPath(uri).name
        return (_fetch(uri, name, _kind_of_file(uri, name, data_format), scratch),)
    listed = [path for path, _ in storage.list_files(uri)]
    if not listed:
        raise StageFailure(Reason.NOT_FOUND, f"Nothing is at {uri}: correct the address, or put the data there")
    kinds = _KINDS_OF_FORMAT[data_format]
    chosen = [(path, kind) for path in listed if (kind := _kind_in_directory(path)) in kinds and kind is not None]
    if not chosen:
        suffixes = ", ".join(suffix for suffix, kind in KIND_OF_SUFFIX.items() if kind in kinds)
        raise StageFailure(
            Reason.BAD_DATA, f"{uri} has no file that ends in {suffixes}, but {_some(listed)}: name the data files so"
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
    """A single file may have any name when the format is given."""
    kinds = _KINDS_OF_FORMAT[data_format]
    kind = KIND_OF_SUFFIX.get(PurePosixPath(name).suffix.lower())
    if kind in kinds and kind is not None:
        return kind
    if data_format is DataFormat.AUTO:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The format of {uri} cannot be told from its name: set dataset.format, or let the name end in "
            f"{', '.join(KIND_OF_SUFFIX)}",
        )
    return kinds[0]


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
