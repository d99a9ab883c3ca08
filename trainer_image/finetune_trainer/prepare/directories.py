"""Which files of a directory are data, and of which split. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_api.manifest import MANIFEST_NAME
from finetune_trainer.prepare.sources import FileKind

KIND_OF_SUFFIX = {
    ".jsonl": FileKind.JSONL,
    ".ndjson": FileKind.JSONL,
    ".json": FileKind.JSONL,
    ".csv": FileKind.CSV,
    ".tsv": FileKind.TSV,
    ".parquet": FileKind.PARQUET,
    ".arrow": FileKind.ARROW,
    ".txt": FileKind.TEXT,
}
COMPRESSION_SUFFIXES = (".gz", ".zst")

SAVED_STATE = "state.json"
"""The file of a data set that ``datasets`` has saved with save_to_disk which lists its Arrow files."""
SAVED_SPLITS = "dataset_dict.json"
"""The file of a saved DatasetDict that lists its splits; each is a directory."""

_METADATA = frozenset({MANIFEST_NAME, SAVED_STATE, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json"})
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""The words with which the Hugging Face Hub assigns files to splits."""
_FILE_NAME = re.compile(r"[\w./ -]{1,100}")
_BETWEEN_WORDS = re.compile(r"[\W\d_]+")


def kind_of(name: str) -> FileKind | None:
    """The format that the name of a file says; None if it says none."""
    pure = PurePosixPath(name.lower())
    return KIND_OF_SUFFIX.get(PurePosixPath(pure.stem if pure.suffix in COMPRESSION_SUFFIXES else pure.name).suffix)


def data_files(paths: Iterable[str]) -> list[tuple[str, FileKind]]:
    """The data files among the ``paths`` of a directory, with their formats.

    Paths with a part that starts with ``.`` or ``_``, descriptions of data sets and files of other formats are not.
    """
    return [(path, kind) for path in paths if _may_be_data(path) and (kind := kind_of(path)) is not None]


def without_caches(
    files: Sequence[tuple[str, FileKind]], saved: Mapping[str, Any], uri: str
) -> list[tuple[str, FileKind]]:
    """``files`` without the Arrow files that do not belong to the saved data sets among them, such as caches.

    Args:
        files: Data files of a directory.
        saved: The content of each `SAVED_STATE` and `SAVED_SPLITS` below the directory, by path.
        uri: Address of the directory.

    Raises:
        StageFailure: BadData when a saved data set is invalid or incomplete, or has an indices mapping.
    """
    present = {path for path, _ in files}
    states = {path: document for path, document in saved.items() if PurePosixPath(path).name == SAVED_STATE}
    for path, document in saved.items():
        if PurePosixPath(path).name == SAVED_SPLITS:
            expected = {str(PurePosixPath(path).parent / split / SAVED_STATE) for split in _texts(document, "splits")}
            if missing := sorted(expected - set(states)):
                raise _incomplete(uri, missing[0])
    members: set[str] = set()
    for path, document in states.items():
        folder = PurePosixPath(path).parent
        if isinstance(document, dict) and (document.get("_indices_data_files") or document.get("_indices_files")):
            raise StageFailure(
                Reason.BAD_DATA,
                f"{uri}/{path}: the saved data set has an indices mapping: save the result of flatten_indices()",
            )
        names = _texts(document, "_data_files", "filename")
        if not names:
            raise StageFailure(Reason.BAD_DATA, f"{uri}/{path} lists no data files: save the data set again")
        files_of_set = {str(folder / name) for name in names}
        if missing := sorted(files_of_set - present):
            raise _incomplete(uri, missing[0])
        members |= files_of_set
    folders = {PurePosixPath(path).parent for path in states}
    return [
        (path, kind)
        for path, kind in files
        if kind is not FileKind.ARROW or path in members or PurePosixPath(path).parent not in folders
    ]


def document_of(content: bytes) -> Any:
    """The JSON in ``content``; None if it is invalid."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def split_of(path: str, uri: str) -> str | None:
    """The split that the name of a file says, or the closest directory whose name says one; None if none does.

    Raises:
        StageFailure: BadData when one name says two splits.
    """
    for part in reversed(PurePosixPath(path).parts):
        splits = {_SPLIT_OF_WORD[word] for word in _BETWEEN_WORDS.split(part.lower()) if word in _SPLIT_OF_WORD}
        if len(splits) > 1:
            raise StageFailure(
                Reason.BAD_DATA,
                f"{uri}/{path}: the name '{part}' says {' and '.join(sorted(splits))}: rename it, or give each split "
                "its own uri in spec.dataset",
            )
        if splits:
            return splits.pop()
    return None


def some(names: Iterable[str], most: int = 5) -> str:
    """The first of ``names``, as a list for messages."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def _may_be_data(path: str) -> bool:
    pure = PurePosixPath(path)
    return not any(part.startswith((".", "_")) for part in pure.parts) and pure.name not in _METADATA


def _texts(document: Any, key: str, inner: str | None = None) -> list[str]:
    """The texts in the list ``document[key]``, or in the field ``inner`` of its items."""
    listed = document.get(key) if isinstance(document, dict) else None
    items = listed if isinstance(listed, list) else []
    if inner is not None:
        items = [item.get(inner) for item in items if isinstance(item, dict)]
    return [item for item in items if isinstance(item, str)]


def _incomplete(uri: str, missing: str) -> StageFailure:
    # The name is from a file that anyone may have written.
    name = missing if _FILE_NAME.fullmatch(missing) else "a file"
    return StageFailure(Reason.BAD_DATA, f"{uri} lacks {name}, which its saved data set lists: upload it again")
