"""The jobs with state on this machine: which directory belongs to a manifest, and which job an argument names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_cli.local.errors import LocalError
from finetune_cli.local.state import StateDirectory

_KEY_LENGTH = 10
_STDIN = "stdin"


@dataclass(frozen=True)
class LocalJob:
    """A job that was run on this machine."""

    state: StateDirectory
    job: FineTuneJob
    manifest: str
    """Path of its manifest; empty if an earlier version of finetune ran it."""
    running: bool

    @property
    def phase(self) -> str:
        """The phase; ``Stopped`` for a job that neither runs nor has finished."""
        status = self.job.status
        return str(status.phase) if self.running or status.completion_time else "Stopped"

    @property
    def is_gone(self) -> bool:
        """Whether its manifest was moved or deleted. One from standard input was never a file."""
        return bool(self.manifest) and Path(self.manifest).name != _STDIN and not Path(self.manifest).exists()


def manifest_path(argument: str) -> str:
    """The path that identifies a manifest; standard input has one for each working directory."""
    return str(Path.cwd() / _STDIN) if argument == "-" else os.path.realpath(argument)


def state_path(root: Path, job: FineTuneJob, manifest: str) -> Path:
    """The directory for the job of a manifest. Jobs of the same name in other manifests have others.

    The directory that an earlier version created, which depends on the name alone, is taken over if its spec is that
    of ``job``.

    Raises:
        LocalError: That directory is in use, or cannot be renamed.
    """
    meta = job.metadata
    path = root / meta.namespace / f"{meta.name}.{_key(manifest)}"
    earlier = root / meta.namespace / meta.name
    if not path.exists() and (earlier / "job.json").exists():
        with StateDirectory.locked(earlier) as state:
            stored = state.load()
            if stored and stored.spec == job.spec:
                earlier.rename(path)
    return path


def local_jobs(root: Path) -> Iterator[LocalJob | LocalError]:
    """Every job with state on this machine, by namespace and name; an error for one that cannot be read."""
    for file in sorted(root.glob("*/*/job.json")):
        state = StateDirectory(file.parent)
        try:
            job = state.load()
        except LocalError as error:
            yield error
            continue
        if job is not None:
            yield LocalJob(state, job, state.manifest, state.is_locked)


def known_job(root: Path, job: FineTuneJob, manifest: str) -> LocalJob | None:
    """The job of a manifest as it was run on this machine; None if it was not."""
    return next((one for one in _of_name(root, job) if one.manifest == manifest), None)


def moved_note(root: Path, job: FineTuneJob, manifest: str) -> tuple[str, ...]:
    """A note if ``manifest`` was not run here, and a job of its name was whose manifest no longer exists."""
    found = _of_name(root, job)
    gone = [one for one in found if one.is_gone]
    if not gone or any(one.manifest == manifest for one in found):
        return ()
    last = max(gone, key=lambda one: one.state.last_change())
    return (
        f"A job of this name was run from {last.manifest}, which no longer exists. If the manifest was moved, this is "
        "another job for finetune: its revisions start with 1.",
    )


def _of_name(root: Path, job: FineTuneJob) -> list[LocalJob]:
    name, namespace = job.metadata.name, job.metadata.namespace
    return [
        one
        for one in local_jobs(root)
        if not isinstance(one, LocalError) and (one.job.metadata.name, one.job.metadata.namespace) == (name, namespace)
    ]


def find(root: Path, argument: str, namespace: str | None, name: str | None) -> LocalJob:
    """The job that ``argument`` names: the path of a manifest, or a name.

    Args:
        root: The directory of all jobs.
        argument: The argument of the command line.
        namespace: The only namespace to search; None for all.
        name: The name in the manifest, if ``argument`` is one that can be read.

    Raises:
        LocalError: No job has this name or manifest, or several have, or its state cannot be read.
    """
    found, broken = [], []
    path = manifest_path(argument) if is_path(argument) else None
    for one in local_jobs(root):
        if isinstance(one, LocalError):
            broken.append(one)
        elif namespace in (None, one.job.metadata.namespace) and _matches(one, argument, path, name):
            found.append(one)
    if not found:
        if broken:
            raise broken[0]
        if "@" in argument.rsplit("/", 1)[-1]:
            hint = f"name it without @, as in {argument.rsplit('@', 1)[0]}, for the job with all its revisions"
            raise LocalError(f"{argument} names a revision; {hint}.", ExitCode.NOT_FOUND)
        hint = f"start it with finetune run {argument}" if path else "list all with finetune list --local"
        raise LocalError(f"No job {argument} was run on this machine; {hint}.", ExitCode.NOT_FOUND)
    if len(found) > 1 and path is None:
        where = " and ".join(sorted(one.manifest or str(one.state.path) for one in found))
        raise LocalError(
            f"{len(found)} jobs on this machine are named {argument}: {where}; name the manifest instead.",
            ExitCode.BAD_CONFIGURATION,
        )
    return max(found, key=lambda one: one.state.last_change())


def is_path(argument: str) -> bool:
    """Whether an argument is the path of a manifest: names of jobs have neither dots nor slashes."""
    return "." in argument or "/" in argument or argument == "-"


def _matches(one: LocalJob, argument: str, path: str | None, name: str | None) -> bool:
    if path is None:
        return one.job.metadata.name == argument
    return one.manifest == path and name in (None, one.job.metadata.name)


def _key(manifest: str) -> str:
    return hashlib.sha256(os.fsencode(manifest)).hexdigest()[:_KEY_LENGTH]
