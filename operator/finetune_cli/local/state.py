"""The state of the local executor on disk, one directory per job, from which it resumes after a crash.

<home>/<namespace>/<name>.<key>/lock
                                source.json                 the manifest, which the key is a digest of
                                job.json                    the FineTuneJob with its status
                                r<revision>/<stage>-<attempt>/
                                    stage.json  termination.json  log.txt  run.json  workspace/
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_api.failures import ExitCode
from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage, StageReport
from finetune_cli.local.errors import LocalError, cannot_write
from finetune_core.runs import RunId

_MAX_REPORT_BYTES = 65536
_LAST_BYTES = 4096
_MAX_LINE_LENGTH = 300
_LOCK_TRIES = 10
"""`finetune list` also locks the directory, for a moment."""
_LOCK_SECONDS = 0.05


class Source(BaseModel):
    """``source.json``: where the job comes from."""

    model_config = ConfigDict(frozen=True)

    manifest: str
    """Absolute path of the manifest."""


class RunRecord(BaseModel):
    """``run.json``: identifies the process of a run after the executor was killed."""

    model_config = ConfigDict(frozen=True)

    pid: int
    identity: str
    """Distinguishes the process from a later one with the same pid."""
    spec_digest: str
    started_at: str
    finished_at: str | None = None
    exit_code: int | None = None
    """As returned by wait: negative for a signal; None if no executor observed the exit."""
    disrupted: bool = False


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    id: RunId
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "stage.json"

    @property
    def termination(self) -> Path:
        return self.path / "termination.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def workspace(self) -> Path:
        return self.path / "workspace"

    @property
    def exists(self) -> bool:
        return self.config.exists()

    def record(self) -> RunRecord | None:
        """The record of the process; None if it was not started, or the executor crashed while starting it."""
        try:
            return RunRecord.model_validate_json((self.path / "run.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write_record(self, record: RunRecord) -> None:
        write_atomic(self.path / "run.json", record.model_dump_json().encode())

    def report(self) -> StageReport | None:
        """The termination message, if there is a valid one."""
        try:
            with self.termination.open("rb") as file:
                return StageReport.model_validate_json(file.read(_MAX_REPORT_BYTES))
        except (OSError, ValidationError):
            return None

    def last_change(self) -> datetime | None:
        """When the stage last wrote its log or its report; None if it wrote nothing."""
        times = [file.stat().st_mtime for file in (self.log, self.termination) if file.exists()]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def last_log_line(self) -> str:
        """The last non-empty line of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_MAX_LINE_LENGTH]


@dataclass(frozen=True)
class StateDirectory:
    """The directory of one job."""

    path: Path

    @classmethod
    @contextlib.contextmanager
    def locked(cls, path: Path) -> Iterator[StateDirectory]:
        """The directory of a job, locked by this process.

        Raises:
            LocalError: Another process has locked it, or it is not writable.
        """
        state = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (path / "lock").open("a+")
        except OSError as error:
            raise cannot_write(path, error) from error
        with lock:
            if not _locks(lock, tries=_LOCK_TRIES):
                lock.seek(0)
                holder = lock.read(32).strip()
                who = f" (process {holder})" if holder.isdigit() else ""
                raise LocalError(
                    f"{state.title} is already running on this machine{who}; wait until it ends, or stop it "
                    "with Ctrl-C there.",
                    ExitCode.STOPPED,
                )
            try:
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
            except OSError as error:
                raise cannot_write(path, error) from error
            yield state

    @property
    def title(self) -> str:
        """Namespace and name of the job."""
        return f"{self.path.parent.name}/{self.path.name.partition('.')[0]}"

    @property
    def is_locked(self) -> bool:
        """Whether a process runs the job now."""
        try:
            with (self.path / "lock").open() as lock:
                return not _locks(lock, tries=1)
        except OSError:
            return False

    @property
    def manifest(self) -> str:
        """Path of the manifest; empty if an earlier version of finetune wrote the directory."""
        try:
            return Source.model_validate_json((self.path / "source.json").read_bytes()).manifest
        except (OSError, ValidationError):
            return ""

    def record_manifest(self, manifest: str) -> None:
        """Record the path of the manifest.

        Raises:
            LocalError: The disk is full, or the directory is not writable.
        """
        try:
            write_atomic(self.path / "source.json", Source(manifest=manifest).model_dump_json().encode())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def load(self) -> FineTuneJob | None:
        """The saved job; None for a new one.

        Raises:
            LocalError: The file cannot be read, or was written by another version of finetune.
        """
        file = self.path / "job.json"
        try:
            return FineTuneJob.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalError(f"Cannot read {file}: {error.strerror}.", ExitCode.PERMISSION_DENIED) from error
        except ValidationError as error:
            raise LocalError(
                f"{file} is not valid; another version of finetune may have written it. Move {self.path} away to start "
                "over.",
                ExitCode.BAD_CONFIGURATION,
            ) from error

    def save(self, job: FineTuneJob) -> None:
        """Save the job.

        Raises:
            LocalError: The disk is full, or the directory is not writable.
        """
        try:
            write_atomic(self.path / "job.json", job.model_dump_json(exclude_none=True).encode())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def last_change(self) -> datetime:
        """When the job, or a run of it, last wrote one of its files."""
        saved = datetime.fromtimestamp((self.path / "job.json").stat().st_mtime, UTC)
        return max([saved, *(written for run in self.runs() if (written := run.last_change()))])

    def run(self, id_: RunId) -> RunDirectory:
        """The directory of one run, which may not exist."""
        return RunDirectory(id_, self.path / f"r{id_.revision}" / f"{id_.stage}-{id_.attempt}")

    def runs(self) -> list[RunDirectory]:
        """The existing runs, oldest first."""
        found = []
        for path in self.path.glob("r*/*-*"):
            match = re.fullmatch(r"r(\d+)/(\w+)-(\d+)", str(path.relative_to(self.path)))
            if match and match[2] in set(Stage):
                found.append(self.run(RunId(int(match[1]), Stage(match[2]), int(match[3]))))
        order = list(Stage)
        return sorted(found, key=lambda run: (run.id.revision, order.index(run.id.stage), run.id.attempt))


def home() -> Path:
    """$FINETUNE_HOME, else ``$XDG_STATE_HOME/finetune`` or ``~/.local/state/finetune``: the directory of all jobs."""
    chosen = os.environ.get("FINETUNE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "finetune"


def _locks(file: IO[str], tries: int) -> bool:
    """Whether this process gets the lock of ``file``."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(_LOCK_SECONDS)
    return False


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` atomically: readers get the old or the new content."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
