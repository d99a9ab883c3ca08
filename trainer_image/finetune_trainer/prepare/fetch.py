"""List, download and hash the files of the splits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import DataFormat, DatasetSpec, Deduplication, Documents, SplitSource
from finetune_trainer import storage
from finetune_trainer.manifests import hash_files
from finetune_trainer.prepare.directories import (
    COMPRESSION_SUFFIXES,
    KIND_OF_SUFFIX,
    SAVED_SPLITS,
    SAVED_STATE,
    data_files,
    document_of,
    kind_of,
    some,
    split_of,
    without_caches,
)
from finetune_trainer.prepare.readers.detect import detected_form
from finetune_trainer.prepare.sources import TABLES, DataFile, FileKind
from finetune_trainer.storage.location import literal_part, matches

_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")

_KINDS_OF_FORMAT = {
    DataFormat.JSONL: (FileKind.JSONL,),
    DataFormat.CSV: (FileKind.CSV, FileKind.TSV),
    DataFormat.PARQUET: (FileKind.PARQUET,),
    DataFormat.OPENAI_CHAT: (FileKind.JSONL, FileKind.PARQUET),
    DataFormat.TEXT: (FileKind.TEXT,),
}
_HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class FetchedData:
    """The files of each data set: of train, and of each split with separate files."""

    dataset: DatasetSpec
    """That of the spec; a split whose files are in the directory of the training data has its address as uri."""
    files: dict[str, tuple[DataFile, ...]]
    notes: tuple[str, ...]
    """Which files of a directory are other splits, and which are not read."""

    @property
    def more(self) -> str:
        """What gives a split more examples, besides its fraction."""
        forms = [file.form for files in self.files.values() for file in files]
        whole = any(form.kind is FileKind.TEXT and form.documents is Documents.FILE for form in forms)
        return f"add data{', divide the text files with dataset.documents' if whole else ''}"

    def address(self, split: str) -> str:
        """The address of a data set, for messages."""
        uri: str = getattr(self.dataset, split).uri
        return f"{uri} ({split} files)" if split != "train" and uri == self.dataset.train.uri else uri


@dataclass(frozen=True)
class _Listed:
    """One file at an address."""

    uri: str
    name: str
    """Path below the directory."""
    kind: FileKind
    split: str | None = None
    """The split that the name says, where it decides."""


def detectable(formats: Collection[DataFormat]) -> tuple[FileKind, ...]:
    """The formats that ``dataset.format: Auto`` detects for a task that reads ``formats``."""
    return tuple(FileKind) if DataFormat.TEXT in formats else TABLES


def fetch_data(dataset: DatasetSpec, scratch: Path, detected: Sequence[FileKind] = TABLES) -> FetchedData:
    """Download the files of all splits, in order of name.

    A directory, or the matches of a pattern, may hold several splits: files whose names say test or validation are
    not training data. They are that split, unless ``dataset`` gives it a uri.

    Args:
        dataset: The addresses, the format and the encoding.
        scratch: Directory for downloads.
        detected: The formats to detect, as `detectable` returns them.

    Raises:
        StageFailure: NotFound when there is no file, BadConfiguration when a format is unknown, or when a setting
            contradicts the files or has no effect on them, BadData when no file is of the split or a file
            is not of its format; otherwise as functions of `storage`.
    """
    uri = dataset.train.uri
    kinds = _KINDS_OF_FORMAT.get(dataset.format, tuple(detected))
    notes: list[str] = []
    found = _tables_first(_listed(uri, dataset.format, kinds), notes)
    chosen = {"train": _of_split("train", uri, found)}
    effective = {}
    for split in _HELD_OUT:
        source: SplitSource = getattr(dataset, split)
        beside = [file for file in found if file.split == split]
        if source.uri is not None:
            listed = _tables_first(_listed(source.uri, dataset.format, kinds), notes)
            chosen[split] = _of_split(split, source.uri, listed)
            unread = [file for file in beside if file not in chosen[split]]
            if unread:
                notes.append(f"not read, because dataset.{split}.uri is set: {_names(unread)}")
        elif beside:
            _check_fraction(split, source, uri, beside)
            chosen[split] = beside
            effective[split] = source.model_copy(update={"uri": uri, "fraction": None})
            notes.append(f"{split} split beside the training data: {_names(beside)}")
    held_out = {file.uri for split in _HELD_OUT for file in chosen.get(split, ())}
    repeated = [file for file in chosen["train"] if file.uri in held_out]
    # Without deduplication, the splits may have the same rows on purpose, such as to learn them by heart.
    if repeated and dataset.cleaning.deduplicate is not Deduplication.NONE:
        notes.append(f"not training data, because another split has the file: {_names(repeated)}")
        chosen["train"] = [file for file in chosen["train"] if file.uri not in held_out]
        if not chosen["train"]:
            raise StageFailure(
                Reason.BAD_DATA, f"All files of {uri} are those of another split: set dataset.train.uri to other files"
            )
    _check_settings(dataset, {file.kind for listed in chosen.values() for file in listed})
    files = {split: tuple(_fetch(file, dataset, scratch) for file in listed) for split, listed in chosen.items()}
    return FetchedData(dataset.model_copy(update=effective), files, tuple(notes))


def _of_split(split: str, uri: str, found: list[_Listed]) -> list[_Listed]:
    """The files at ``uri`` that are of ``split``; training files need not say so."""
    fitting = [file for file in found if file.split == split]
    if split == "train" or not fitting:
        # Without a file that says it, all files are meant, but not those of another split.
        fitting = [file for file in found if file.split in (split, None)]
    others = sorted({file.split for file in found if file.split} - {split})
    if not fitting:
        raise StageFailure(
            Reason.BAD_DATA,
            f"{uri} has no {split} files, only those of {' and '.join(others)} ({_names(found)}): set "
            f"dataset.{split}.uri to the {split} files",
        )
    return fitting


def _check_fraction(split: str, source: SplitSource, uri: str, beside: list[_Listed]) -> None:
    """A fraction that the spec sets would be ignored; its default cannot be told from one that is omitted."""
    if source.fraction != DatasetSpec.model_fields[split].default.fraction:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"dataset.{split}.fraction is {source.fraction}, but {uri} has {split} files ({_names(beside)}): remove "
            "the fraction to use them, or set dataset.train.uri to the training files alone",
        )


def _check_settings(dataset: DatasetSpec, kinds: Collection[FileKind]) -> None:
    """Check that each setting of text files or of tables has an effect on the ``kinds`` of files."""
    uri = dataset.train.uri
    if dataset.documents and FileKind.TEXT not in kinds:
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"dataset.documents is set, but {uri} has no text files, and each row of other files is a document: remove "
            "it, or set dataset.format to Text",
        )
    if any(name for _, name in dataset.columns) and set(kinds) == {FileKind.TEXT}:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"dataset.columns is set, but {uri} has text files, without columns: remove it"
        )


def _listed(uri: str, data_format: DataFormat, kinds: Sequence[FileKind]) -> list[_Listed]:
    """The data files at ``uri``: a file, a directory or a pattern.

    In a directory, paths with a part that starts with ``.`` or ``_`` and files of other formats are ignored. The names
    of a single file, and of files whose names all say the same split in a pattern, do not decide about the split.
    """
    directory, pattern = literal_part(uri)
    if storage.exists(uri):
        name = PurePosixPath(uri).name
        return [_Listed(uri, name, _kind_of_file(uri, name, data_format, kinds))]
    paths = [path for path, _ in storage.list_files(directory)]
    if pattern:
        paths = [path for path in paths if matches(path, pattern)]
    if not paths:
        what = "There is no file that matches" if pattern else "There is no data at"
        raise StageFailure(Reason.NOT_FOUND, f"{what} {uri}: correct the address, or upload the data")
    files = data_files(paths)
    saved = {
        path: _document(directory, path) for path in paths if PurePosixPath(path).name in (SAVED_STATE, SAVED_SPLITS)
    }
    files = [(path, kind) for path, kind in without_caches(files, saved, directory) if kind in kinds]
    if not files:
        suffixes = ", ".join(suffix for suffix, kind in KIND_OF_SUFFIX.items() if kind in kinds)
        raise StageFailure(
            Reason.BAD_DATA,
            f"{uri} has no file that ends in {suffixes}, only {some(paths)}: write the examples as rows of such a file",
        )
    listed = [
        _Listed(storage.join(directory, path), path, kind, split_of(path, directory)) for path, kind in sorted(files)
    ]
    if pattern and len({file.split for file in listed}) == 1:
        return [replace(file, split=None) for file in listed]
    return listed


def _tables_first(found: list[_Listed], notes: list[str]) -> list[_Listed]:
    """``found`` without the text files beside tables, which probably describe them; a note says so."""
    tables = [file for file in found if file.kind is not FileKind.TEXT]
    texts = [file for file in found if file.kind is FileKind.TEXT]
    if not tables or not texts:
        return found
    notes.append(
        f"not read, because other data files are beside them: {_names(texts)}; dataset.format: Text reads them"
    )
    return tables


def _document(directory: str, path: str) -> object:
    return document_of(storage.read_bytes(storage.join(directory, path)))


def _fetch(file: _Listed, dataset: DatasetSpec, scratch: Path) -> DataFile:
    path = storage.localise(file.uri, scratch)
    (entry,) = hash_files(path.parent, [path.name])
    form = detected_form(file.uri, path, file.kind, dataset.encoding)
    if file.kind is FileKind.TEXT and dataset.documents:
        form = replace(form, documents=dataset.documents)
    return DataFile(uri=file.uri, name=file.name, path=path, form=form, size=entry.size, sha256=entry.sha256)


def _kind_of_file(uri: str, name: str, data_format: DataFormat, kinds: Sequence[FileKind]) -> FileKind:
    """The format of a single file; its name is free if the spec sets the format."""
    kind = kind_of(name)
    if kind in kinds and kind is not None:
        return kind
    if PurePosixPath(name).suffix.lower() in _WORKBOOKS:
        raise StageFailure(Reason.BAD_DATA, f"{uri} is a workbook: export its sheet as CSV")
    if data_format is DataFormat.AUTO:
        known = [suffix for suffix, kind in KIND_OF_SUFFIX.items() if kind in kinds]
        suffixes = f"{', '.join(known)} (also with {' or '.join(COMPRESSION_SUFFIXES)})"
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The format of {uri} is not clear from its name: set dataset.format, or rename the file to end in "
            f"{suffixes}",
        )
    return kinds[0]


def _names(files: list[_Listed]) -> str:
    return some(file.name for file in files)
