"""Reads a FineTuneJob from a YAML file, and reports every problem with file, line and remedy."""

from __future__ import annotations

import copy
import json
import os.path
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.job import FineTuneJob
from finetune_cli.fields import nearest
from finetune_cli.sentences import causes, dotted, quoted, sentence
from finetune_cli.source import Document, Path_, SourceError, read_documents
from finetune_core.sentences import clipped

_MOST_BYTES = 1 << 20
ADDRESSES = (
    ("spec", "model", "uri"),
    ("spec", "model", "adapter", "uri"),
    ("spec", "distillation", "teacher", "uri"),
    ("spec", "dataset", "train", "uri"),
    ("spec", "dataset", "validation", "uri"),
    ("spec", "dataset", "test", "uri"),
    ("spec", "evaluation", "harnessPath", "uri"),
    ("spec", "output", "uri"),
)


@dataclass(frozen=True)
class Problem:
    """One problem of a manifest."""

    file: str
    """Name of the file, or the option of the command line."""
    line: int
    """From 1; 0 for an option."""
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.message}"


class ManifestError(Exception):
    """An invalid manifest, with all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class Source:
    """The text of a manifest file."""

    text: str
    file: str
    """The name in messages."""
    directory: Path
    """The base of relative URIs."""


def read(path: str) -> Source:
    """Read a file, or standard input for ``-``.

    Raises:
        ManifestError: It cannot be read.
    """
    if path == "-":
        return Source(_decoded(sys.stdin.buffer.read(_MOST_BYTES + 1), "stdin"), "stdin", Path.cwd())
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ManifestError([Problem(path, 1, f"cannot be read: {reason}")]) from error
    return Source(_decoded(content, path), path, Path(path).absolute().parent)


def documents_of(source: Source) -> list[Document]:
    """The YAML documents of a file.

    Raises:
        ManifestError: It is not valid YAML.
    """
    try:
        return read_documents(source.text)
    except SourceError as error:
        raise ManifestError([Problem(source.file, error.line, error.message)]) from error


Change = Callable[[Document], Document]
"""Changes a document before it is validated."""


def problem_at(document: Document, file: str, path: tuple[str | int, ...], message: str) -> Problem:
    """The problem of a field, with the place that it comes from."""
    origin = document.origin_of(path)
    return Problem(origin, 0, message) if origin else Problem(file, document.line_of(path), message)


def load(path: str, change: Change = lambda document: document) -> FineTuneJob:
    """The FineTuneJob in a file, or on standard input for ``-``, with relative ``file://./`` URIs made absolute.

    Raises:
        ManifestError: It cannot be read, or is not exactly one valid FineTuneJob.
    """
    source = read(path)
    return checked(change(_chosen(documents_of(source), source.file)), source)


def parse(text: str, file: str, directory: Path) -> FineTuneJob:
    """The FineTuneJob in ``text``; ``file`` is its name in messages, ``directory`` the base of relative URIs.

    Raises:
        ManifestError: It is not exactly one valid FineTuneJob.
    """
    source = Source(text, file, directory)
    return checked(_chosen(documents_of(source), file), source)


def is_ours(document: Document) -> bool:
    """Whether a document is a FineTuneJob, or is probably meant to be one."""
    data = document.data
    if not isinstance(data, dict):
        return False
    return data.get("kind") == KIND or str(data.get("apiVersion", "")).partition("/")[0] == API_GROUP


def checked(document: Document, source: Source) -> FineTuneJob:
    """Validate a document; returns the FineTuneJob with relative URIs made absolute.

    Raises:
        ManifestError: It is invalid; all problems are reported at once.
    """
    file = source.file
    if head := _head(document):
        raise ManifestError([Problem(file, line, message) for line, message in head])
    data = copy.deepcopy(document.data)
    data.pop("status", None)
    problems = [Problem(file, line, message) for line, message in document.problems]
    for place in ADDRESSES:
        found = _resolve(data, place, source.directory)
        problems += [problem_at(document, file, place, message) for message in found]
    try:
        job = FineTuneJob.model_validate_json(json.dumps(data))
    except ValidationError as error:
        of_text = _sentences(document.text_data) if document.origins else []
        for where, message, group in _problems(error):
            path = where
            if document.origin_of(where) is None and document.origins and (where, message) not in of_text:
                path = _cause(document, group)  # The text agrees with itself, so an option contradicts it.
            problems.append(problem_at(document, file, path, message))
        raise ManifestError(sorted(problems, key=lambda problem: problem.line)) from error
    if problems:
        raise ManifestError(sorted(problems, key=lambda problem: problem.line))
    return job


def _problems(error: ValidationError) -> list[tuple[Path_, str, Path_]]:
    """For each problem the field to change, the sentence, and the group of fields that it is about."""
    return [(*sentence(details), tuple(details["loc"])) for details in causes(error.errors(include_url=False))]


def _sentences(data: Any) -> list[tuple[Path_, str]]:
    """The problems of a document's data, as they would be without options of the command line."""
    try:
        FineTuneJob.model_validate_json(json.dumps({name: data[name] for name in data if name != "status"}))
    except ValidationError as error:
        return [(where, message) for where, message, _ in _problems(error)]
    return []


def _cause(document: Document, group: Path_) -> Path_:
    """The last field of the command line in a group of fields, or in the whole document."""
    inside = [path for path in document.origins if path[: len(group)] == group or group[: len(path)] == path]
    return (inside or list(document.origins))[-1]


def address(data: Any, path: tuple[str, ...]) -> str | None:
    """The string at ``path`` of a document's data; None if there is none."""
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data if isinstance(data, str) else None


def _decoded(content: bytes, file: str) -> str:
    if len(content) > _MOST_BYTES:
        raise ManifestError([Problem(file, 1, "is larger than 1 MiB, too large for a manifest")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ManifestError([Problem(file, line, "is not UTF-8 text")]) from error


def _chosen(documents: list[Document], file: str) -> Document:
    """The only FineTuneJob among the documents."""
    if not documents:
        raise ManifestError([Problem(file, 1, "is empty; a FineTuneJob starts with apiVersion, kind and metadata")])
    jobs = [document for document in documents if isinstance(document.data, dict) and document.data.get("kind") == KIND]
    if len(jobs) > 1:
        lines = " and ".join(str(job.line) for job in jobs)
        message = f"contains {len(jobs)} FineTuneJobs, in lines {lines}; put each into its own file"
        raise ManifestError([Problem(file, jobs[1].line, message)])
    return jobs[0] if jobs else documents[0]


def _head(document: Document) -> list[tuple[int, str]]:
    """Problems of apiVersion and kind, without which the rest cannot be validated."""
    data = document.data
    if not isinstance(data, dict):
        return [(document.line, "is not a FineTuneJob: it must be a mapping with apiVersion, kind, metadata and spec")]
    wanted = {"apiVersion": f"{API_GROUP}/{API_VERSION}", "kind": KIND}
    problems = []
    for name, value in wanted.items():
        if name not in data:
            meant = nearest(name, [str(key) for key in data])
            written = f"; it is spelled {meant} here" if meant else f"; write {name}: {value}"
            problems.append((document.line, f"{name} is missing{written}"))
        elif data[name] != value:
            problems.append((document.line_of((name,)), f"{name} is {quoted(data[name])}, but must be {value}"))
    return problems


def _resolve(data: dict[str, Any], path: tuple[str, ...], directory: Path) -> list[str]:
    """Make one relative URI absolute, in place; returns its problems."""
    uri = address(data, path)
    if uri is None or not uri.startswith("file://"):
        return []
    rest = uri.removeprefix("file://")
    is_data = "dataset" in path
    if "#" in rest or ("?" in rest and not is_data):
        return []
    host = rest.partition("/")[0]
    if host in (".", ".."):
        parent = reduce(getitem, path[:-1], data)
        parent[path[-1]] = _absolute(unquote(rest), directory, wildcards=is_data)
        return []
    if host not in ("", "localhost"):
        shown = clipped(rest, 100)
        return [
            f"{dotted(path)} is {quoted(uri)}, which has the host {quoted(host)}; write file://./{shown} for a path "
            f"relative to the manifest, or file:///{shown} for an absolute path"
        ]
    return []


def _absolute(relative: str, directory: Path, *, wildcards: bool) -> str:
    """The URI of a path below ``directory``. ``as_uri`` encodes the wildcards * and ?."""
    uri = Path(os.path.normpath(directory / relative)).as_uri()
    return uri.replace("%2A", "*").replace("%3F", "?") if wildcards else uri
