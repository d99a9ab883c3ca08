"""``finetune submit``: validates the FineTuneJobs in files and applies them to a cluster."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finetune_api.base import KIND
from finetune_cli.manifest import (
    ADDRESSES,
    ManifestError,
    Problem,
    Source,
    address,
    checked,
    documents_of,
    is_ours,
    problem_at,
    read,
)
from finetune_cli.output import Output, print_error, program, to_json, to_yaml, write
from finetune_cli.overrides import Override, overridden, overrides_of
from finetune_cli.refusals import FIELD_MANAGER, ClusterError
from finetune_cli.sentences import dotted
from finetune_cli.source import Document
from finetune_cli.stored import RESOURCE

if TYPE_CHECKING:
    from finetune_cli.cluster import Cluster

_SERVER_FIELDS = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")


@dataclass(frozen=True)
class Submission:
    """A FineTuneJob to apply, and its position in a file."""

    manifest: dict[str, Any]
    document: Document
    file: str

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def within(self, namespace: str) -> Submission:
        """The submission in ``namespace``, unless the manifest names another one."""
        metadata = {"namespace": namespace, **self.manifest["metadata"]}
        return replace(self, manifest={**self.manifest, "metadata": metadata})


def checked_files(
    paths: Sequence[str], namespace: str | None, watch: bool, settings: Sequence[str] = ()
) -> list[Submission] | None:
    """The FineTuneJobs in the files; None after their problems were printed. Needs no cluster."""
    try:
        found = submissions(paths, namespace, overrides_of(settings))
    except ManifestError as error:
        print_error(*map(str, error.problems))
        return None
    if watch and len(found) > 1:
        print_error(
            f"finetune: --watch needs exactly one FineTuneJob, but there are {len(found)}; use finetune watch NAME."
        )
        return None
    return found


async def submit(cluster: Cluster, found: Sequence[Submission], output: Output, watch: bool, force: bool) -> int:
    """Apply FineTuneJobs; returns the exit code."""
    code, applied = 0, []
    for submission in (one.within(cluster.namespace) for one in found):
        try:
            applied.append(await _apply(cluster, submission, output, force))
        except ClusterError as error:
            print_error(*_error_lines(error, submission))
            code = code or error.exit_code
    if output in (Output.JSON, Output.YAML) and applied:
        shown = applied[0] if len(applied) == 1 else {"apiVersion": "v1", "kind": "List", "items": applied}
        write(to_json(shown) if output is Output.JSON else to_yaml(shown))
    if code or not watch:
        return code
    from finetune_cli.watch import watch as watch_job

    meta = applied[0]["metadata"]
    cluster.namespace = meta["namespace"]
    return await watch_job(cluster, meta["name"], Output.TEXT)


def submissions(paths: Sequence[str], namespace: str | None, overrides: Sequence[Override] = ()) -> list[Submission]:
    """Every FineTuneJob in the files; ``namespace`` and ``overrides`` are those of the command line.

    Raises:
        ManifestError: One of them is invalid; then none may be applied.
    """
    problems: list[Problem] = []
    found: list[Submission] = []
    for path in paths:
        try:
            source = read(path)
            documents = documents_of(source)
        except ManifestError as error:
            problems += error.problems
            continue
        jobs = [document for document in documents if is_ours(document)]
        if not jobs:
            problems.append(Problem(source.file, 1, f"contains no {KIND}"))
        for other in documents:
            if other not in jobs:
                print_error(
                    f"note: {source.file}:{other.line}: {_named(other)} is not submitted; apply it with kubectl apply"
                )
        for written in jobs:
            try:
                document = overridden(written, overrides)
            except ManifestError as error:
                problems += error.problems
                continue
            wrong = _problems(document, source, namespace)
            problems += wrong
            if not wrong:
                found.append(Submission(_manifest(document.data), document, source.file))
    if problems:
        raise ManifestError(problems)
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two versions of an object differ in spec, labels, annotations or finalizers."""

    def written(found: dict[str, Any]) -> tuple[Any, ...]:
        meta = found["metadata"]
        return found["spec"], *(meta.get(name) or None for name in ("labels", "annotations", "finalizers"))

    return written(before) != written(after)


async def _apply(cluster: Cluster, submission: Submission, output: Output, force: bool) -> dict[str, Any]:
    manifest = submission.manifest
    before = None
    try:
        before = await cluster.get(submission.name, manifest["metadata"]["namespace"])
    except ClusterError as error:
        if error.code != 404:
            raise
    try:
        after, is_new = await cluster.apply(manifest, force)
    except ClusterError as error:
        # The field manager of `suspend` and `resume` is this program, so it may take over the field.
        if error.code != 409 or set(error.field_managers) != {FIELD_MANAGER}:
            raise
        after, is_new = await cluster.apply(manifest, force=True)
    result = "created" if is_new else "unchanged" if before and not changed(before, after) else "configured"
    name, where = f"{RESOURCE}/{submission.name}", manifest["metadata"]["namespace"]
    if output is Output.TEXT:
        write(f"{name} {result} in namespace {where}")
    elif output is Output.NAME:
        write(name)
    if after["spec"].get("suspend") and not manifest["spec"].get("suspend"):
        print_error(
            f"note: {submission.name} is suspended; resume it with {program()} resume {submission.name} -n {where}"
        )
    return after


def _problems(document: Document, source: Source, namespace: str | None) -> list[Problem]:
    """Why a document cannot be applied; ``namespace`` is that of the command line."""
    try:
        checked(document, source)
    except ManifestError as error:
        problems = list(error.problems)
    else:
        problems = []
    for path in ADDRESSES:
        uri = address(document.data, path)
        if uri and uri.startswith("file://"):
            message = (
                f"{dotted(path)} is {uri!r}, which pods cannot read; copy it to s3://, gs:// or az://, or run the job "
                "on this machine with finetune run"
            )
            problems.append(problem_at(document, source.file, path, message))
    written = address(document.data, ("metadata", "namespace"))
    if namespace and written and written != namespace:
        message = f"metadata.namespace is {written!r}, but -n is {namespace!r}; omit one of them"
        problems.append(problem_at(document, source.file, ("metadata", "namespace"), message))
    return sorted(problems, key=lambda problem: problem.line)


def _manifest(data: dict[str, Any]) -> dict[str, Any]:
    """The document without fields that only the API server sets, so that output of `get -o yaml` can be submitted."""
    manifest = _without_nulls(copy.deepcopy(data))
    manifest.pop("status", None)
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in _SERVER_FIELDS}
    return {**manifest, "metadata": metadata}


def _without_nulls(node: Any) -> Any:
    """``node`` without null fields, which mean the same as missing ones."""
    if isinstance(node, dict):
        return {name: _without_nulls(value) for name, value in node.items() if value is not None}
    return [_without_nulls(item) for item in node] if isinstance(node, list) else node


def _error_lines(error: ClusterError, submission: Submission) -> list[str]:
    """The error of the API server, with the lines that it is about."""
    document, file = submission.document, submission.file
    if error.code == 409 and error.field_managers:
        return [
            f"{file}:{document.line_of(_path(field))}: {field} was set by {manager}; change it there, or take it over "
            "with --force-conflicts"
            for manager, fields in error.field_managers.items()
            for field in fields
        ]
    if error.code == 422 and error.causes:
        return [
            f"{file}:{document.line_of(_path(field))}: {field}: {message}" if field else f"{file}:1: {message}"
            for field, message in error.causes
        ]
    return [f"{file}:{document.line}: {submission.name} was not submitted: {error.message}"]


def _path(field: str) -> tuple[str | int, ...]:
    """``spec.evaluation.gates[0].metric`` as a path."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", field))


def _named(document: Document) -> str:
    data = document.data if isinstance(document.data, dict) else {}
    name = address(data, ("metadata", "name"))
    return f"{data.get('kind', 'a document without kind')}" + (f" {name}" if name else "")
