"""``finetune lint``: validates manifests as the API server would, without a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_api.base import API_GROUP, KIND
from finetune_api.failures import ExitCode
from finetune_api.text import clean
from finetune_cli.manifest import ManifestError, Problem, Source, address, checked, documents_of, is_ours, read
from finetune_cli.output import Output, print_error, to_json, write
from finetune_cli.overrides import Override, overridden, overrides_of
from finetune_cli.source import Document

_ENDINGS = (".yaml", ".yml", ".json")
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_TEMPLATE_HINT = "; if it is a Helm template, check its result with: helm template … | finetune lint -"


@dataclass
class Findings:
    """The checked files and the problems in them."""

    problems: list[Problem] = field(default_factory=list)
    jobs: int = 0
    files: int = 0
    others: int = 0
    """Skipped documents of other kinds."""


def lint(paths: Sequence[str], output: Output, settings: Sequence[str] = ()) -> int:
    """Check the FineTuneJobs in files and directories, with the fields of ``--set``; returns the exit code."""
    try:
        overrides = overrides_of(settings)
    except ManifestError as error:
        found, overrides = Findings(problems=error.problems), ()
    else:
        found = findings(paths, overrides)
    if output is Output.JSON:
        errors = [{"file": one.file, "line": one.line, "message": one.message} for one in found.problems]
        write(to_json({"jobs": found.jobs, "files": found.files, "skipped": found.others, "errors": errors}))
    else:
        if found.problems:
            write("\n".join(clean(str(problem)) for problem in found.problems))
        print_error(summary(found, paths))
    return ExitCode.BAD_CONFIGURATION if found.problems else ExitCode.DONE


def summary(found: Findings, paths: Sequence[str]) -> str:
    """One line about all files."""
    skipped = f"; {_counted(found.others, 'other object')} skipped" if found.others else ""
    if not found.jobs and not found.problems:
        return f"no {KIND} in {', '.join(paths)}{skipped}"
    what = f"{_counted(found.jobs, KIND)} in {_counted(found.files, 'file')}"
    result = f"{_counted(len(found.problems), 'problem')} found" if found.problems else "no problems found"
    return f"{what} checked, {result}{skipped}"


def findings(paths: Sequence[str], overrides: Sequence[Override] = ()) -> Findings:
    """Check every file; in a directory, all YAML and JSON files."""
    found = Findings()
    for path in paths:
        if path != "-" and Path(path).is_dir():
            for file in _below(path):
                _check(file, found, overrides, named=False)
        else:
            _check(path, found, overrides, named=True)
    found.problems.sort(key=lambda problem: (problem.file, problem.line))
    return found


def _check(path: str, found: Findings, overrides: Sequence[Override], named: bool) -> None:
    """Check one file. A file that is not ``named`` on the command line may be anything, such as a template."""
    try:
        source = read(path)
    except ManifestError as error:
        found.problems += error.problems if named else []
        return
    if not named and API_GROUP not in source.text and KIND not in source.text:
        return
    try:
        documents = documents_of(source)
    except ManifestError as error:
        found.files += 1
        hint = _TEMPLATE_HINT if "{{" in source.text else ""
        found.problems += [replace(problem, message=problem.message + hint) for problem in error.problems]
        return
    jobs = [document for document in documents if is_ours(document)]
    found.others += len(documents) - len(jobs)
    found.jobs += len(jobs)
    found.files += bool(jobs)
    for document in jobs:
        found.problems += _problems(document, source, overrides)
    found.problems += _repeated(jobs, source)


def _problems(document: Document, source: Source, overrides: Sequence[Override]) -> list[Problem]:
    try:
        checked(overridden(document, overrides), source)
    except ManifestError as error:
        missing = all(problem.message.endswith("is missing") for problem in error.problems)
        if missing and any((source.directory / name).is_file() for name in _KUSTOMIZATIONS):
            message = "is a part of a kustomization; check the whole with: kustomize build … | finetune lint -"
            return [Problem(source.file, document.line, message)]
        return error.problems
    return []


def _repeated(jobs: Sequence[Document], source: Source) -> Iterator[Problem]:
    """Jobs of the same name and namespace in one file: kubectl would apply one over the other."""
    lines: dict[tuple[str, str], int] = {}
    for document in jobs:
        metadata = document.data.get("metadata")
        name, namespace = (address(metadata, (key,)) or "" for key in ("name", "namespace"))
        first = lines.setdefault((namespace, name), document.line)
        if name and first != document.line:
            message = f"has the same name as the job in line {first}, {name}; change metadata.name of one"
            yield Problem(source.file, document.line_of(("metadata", "name")), message)


def _below(directory: str) -> Iterator[str]:
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, name) for name in sorted(files) if name.endswith(_ENDINGS))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
