"""The task files at ``evaluation.harnessPath``: fetches and checks them, without lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from finetune_api.failures import Reason, StageFailure
from finetune_api.spec import HarnessPath
from finetune_api.tables.harness import TASK
from finetune_trainer import storage
from finetune_trainer.exceptions import first_line
from finetune_trainer.manifests import hash_files

_SUFFIXES = (".yaml", ".yml")
_MOST_FILES, _MOST_BYTES, _MOST_YAML_BYTES = 10_000, 1 << 30, 1 << 20
_STANDARD_TAGS = "tag:yaml.org,2002:"
_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Loaders of data files that run no code; that of pickles would."""
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
_DECLARED = re.compile(rb"""^task:[ \t]*["']?(""" + TASK.encode() + rb""")["']?[ \t]*(?:#.*)?\r?$""", re.M)
"""The name of a task in a file that cannot be read as YAML."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class TaskFiles:
    """Task files on local disk, without Python code. Files that no named task needs may be unusable."""

    uri: str
    path: Path
    digest: str
    """Of all files, also the data."""
    documents: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """The content of each usable task file, by its path in the directory."""
    unusable: Mapping[str, StageFailure] = field(repr=False)
    """What is wrong with each other task file, by its path."""
    tasks: Mapping[str, str]
    """The task file of each task, by its name."""
    refused: Mapping[str, StageFailure] = field(repr=False)
    """What is wrong with each task whose file cannot be used, by its name."""

    def defines(self, name: str) -> bool:
        """Whether there is a task file for a task.

        Raises:
            StageFailure: BadConfiguration when there is, but it cannot be used.
        """
        if name in self.refused:
            raise self.refused[name]
        return name in self.tasks

    def config(self, name: str, scratch: Path) -> dict[str, Any]:
        """The configuration of a task for lm-eval, with the addresses of its data on this machine.

        Args:
            name: A task in ``tasks``.
            scratch: Directory in which lm-eval stores a copy of the data.

        Raises:
            StageFailure: BadConfiguration when it includes or reads anything but files of the directory and data sets
                of the hub, or runs code.
        """
        file = self.tasks[name]
        config = self._merged(file, ())
        where = f"{file} of {self.uri}"
        for key, why in (
            ("class", "is Python code"),
            ("use_prompt", "takes prompts from another library"),
            ("unsafe_code", "runs answers of the model as programs, without a sandbox"),
        ):
            if config.get(key):
                raise _bad(f"{where}: {key} {why}, which evaluation.harness does not do; remove it")
        dataset, settings = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
        if not isinstance(dataset, str):
            raise _bad(f"{where} has no dataset_path: set it to one of {', '.join(_FORMATS)} with data_files below")
        if "trust_remote_code" in settings:
            raise _bad(f"{where}: dataset_kwargs.trust_remote_code would run code of the hub; remove it")
        if dataset in _FORMATS:
            if "data_dir" in settings:
                raise _bad(f"{where}: dataset_kwargs.data_dir is not supported; name the files in data_files")
            settings["data_files"] = self._data(settings.get("data_files"), file)
            settings["cache_dir"] = str(scratch / "datasets")
            config["dataset_kwargs"] = settings
        elif not _HUB_ID.fullmatch(dataset) or dataset in (
            "pandas",
            "webdataset",
            "generator",
            "spark",
            "sql",
            "cache",
        ):
            raise _bad(
                f"{where}: dataset_path {dataset!r} is neither one of {', '.join(_FORMATS)}, for data_files beside the "
                "task file, nor a data set of the hub, owner/name"
            )
        # lm-eval adds the version and the like.
        return {**config, "metadata": dict(config.get("metadata") or {})}

    def _merged(self, file: str, outer: tuple[str, ...]) -> dict[str, Any]:
        """The content of a task file with that of the files that it includes, which it overrides."""
        if file in outer:
            raise _bad(f"{file} of {self.uri} includes itself, through {' and '.join(outer)}")
        own = dict(self.documents[file])
        included = own.pop("include", None) or []
        merged: dict[str, Any] = {}
        for name in included if isinstance(included, list) else [included]:
            path = self._beside(file, str(name))
            if path is not None and path in self.unusable:
                raise self.unusable[path]
            if path is None or path not in self.documents:
                raise _bad(f"{file} of {self.uri} includes {name}, but there is no such YAML file in that directory")
            merged |= self._merged(path, (*outer, file))
        merged |= own
        return {key: value for key, value in merged.items() if key not in ("tag", "group", "task_list")}

    def _data(self, files: Any, task: str) -> Any:
        """``data_files`` with paths on this machine."""
        if isinstance(files, dict):
            return {split: self._data(names, task) for split, names in files.items()}
        if isinstance(files, list):
            return [self._data(name, task) for name in files]
        found = self._beside(task, files) if isinstance(files, str) else None
        if not found or not (self.path / found).is_file():
            named = f"names {files}, but there is no such file beside it" if files else "has no data_files"
            raise _bad(f"{task} of {self.uri}: dataset_kwargs {named}; the paths are relative to the task file")
        return str(self.path / found)

    def _beside(self, file: str, name: str) -> str | None:
        """The path in the directory of a file that is named relative to ``file``; None if it is outside."""
        path = (self.path / file).parent / name
        try:
            return path.resolve().relative_to(self.path.resolve()).as_posix()
        except ValueError:
            return None


def fetch_tasks(source: HarnessPath, scratch: Path) -> TaskFiles:
    """Download and read the task files.

    Raises:
        StageFailure: NotFound when there are none; BadConfiguration when they are too large; otherwise as functions of
            `storage`.
    """
    listed = storage.list_files(source.uri)
    names = [name for name, _ in listed]
    if not any(name.endswith(_SUFFIXES) for name in names):
        raise StageFailure(
            Reason.NOT_FOUND,
            f"There is no task file (*.yaml) at {source.uri}: correct evaluation.harnessPath.uri, or upload the files",
        )
    if len(listed) > _MOST_FILES or sum(size for _, size in listed) > _MOST_BYTES:
        raise _bad(f"{source.uri} has more than {_MOST_FILES:,} files or 1 GiB: put the task files into a directory")
    path = storage.localise(source.uri, scratch)
    entries = hash_files(path, names)
    digest = sha256(json.dumps([[entry.path, entry.sha256] for entry in entries]).encode()).hexdigest()
    documents: dict[str, Mapping[str, Any]] = {}
    unusable: dict[str, StageFailure] = {}
    for name in names:
        if name.endswith(_SUFFIXES):
            try:
                documents[name] = _read(path, name, source.uri)
            except StageFailure as failure:
                unusable[name] = failure
    tasks, refused = _tasks(documents, source.uri)
    for name, problem in unusable.items():
        declared = {match[1].decode() for match in _DECLARED.finditer((path / name).read_bytes())}
        # The file whose name is that of the task is the likely one if its content does not say.
        for task in declared | ({Path(name).stem} - set(tasks)):
            refused.setdefault(task, problem)
    return TaskFiles(source.uri, path, f"sha256:{digest}", documents, unusable, tasks, refused)


def _tasks(documents: Mapping[str, Mapping[str, Any]], uri: str) -> tuple[dict[str, str], dict[str, StageFailure]]:
    """The task file of each task by its name, and what is wrong with tasks that have none of their own."""
    found: dict[str, str] = {}
    refused: dict[str, StageFailure] = {}
    for file, document in documents.items():
        name = document.get("task")
        if "group" in document or name is None:
            continue  # A group, or a file that others include.
        if not isinstance(name, str) or not re.fullmatch(TASK, name):
            refused[Path(file).stem] = _bad(
                f"{file} of {uri}: task must be a name of letters, digits, and _ . -, not {name!r}"
            )
        elif name in found:
            refused[name] = _bad(f"{file} and {found[name]} of {uri} both define the task {name}; rename one")
        else:
            found[name] = file
    return found, refused


def _read(directory: Path, name: str, uri: str) -> Mapping[str, Any]:
    path = directory / name
    if path.stat().st_size > _MOST_YAML_BYTES:
        raise _bad(f"{name} of {uri} has more than 1 MiB; put the examples into a data file")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        for tagged in _nodes(node):
            if not tagged.tag.startswith(_STANDARD_TAGS):
                code = "Python code" if tagged.tag == "!function" else "not plain YAML"
                line = tagged.start_mark.line + 1
                raise _bad(
                    f"{name} of {uri}, line {line}: {tagged.tag} is {code}, which evaluation.harness does not run; "
                    "write a template instead"
                )
        document = yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError:
        raise _bad(f"{name} of {uri} is not UTF-8") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise _bad(f"{name} of {uri}{line} is not valid YAML: {problem}") from None
    if not isinstance(document, dict):
        raise _bad(f"{name} of {uri} is not a task: it must be a mapping with task, dataset_path and more")
    return document


def _nodes(root: Any) -> Iterator[Any]:
    """Each node of a document once; aliases share nodes."""
    pending, seen = [root] if root else [], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def _bad(message: str) -> StageFailure:
    return StageFailure(Reason.BAD_CONFIGURATION, message)
