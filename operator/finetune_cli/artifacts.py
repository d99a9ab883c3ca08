"""What an argument names that is an artifact: its address, or the job that has published it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from finetune_api.failures import ExitCode
from finetune_api.job import ArtifactStatus, FineTuneJob
from finetune_cli.local import LocalError

_WITH_REVISION = re.compile(r"(.+)@([1-9]\d{0,8})")


@dataclass(frozen=True)
class Reference:
    """A job and its revision, as on the command line: ``job``, ``job@2``, ``job.yaml@2``."""

    job: str
    revision: int | None = None
    """None for the current one."""

    @classmethod
    def of(cls, argument: str) -> Reference:
        found = _WITH_REVISION.fullmatch(argument)
        return cls(found[1], int(found[2])) if found else cls(argument)


def address_of(argument: str) -> str | None:
    """The address that an argument is: a URI, or the path of a directory; None if it names a job."""
    if "://" in argument:
        return argument.rstrip("/")
    path = Path(argument)
    return path.absolute().as_uri() if path.is_dir() else None


def artifact_of(job: FineTuneJob, reference: Reference) -> ArtifactStatus:
    """The artifact that a revision of a job has published.

    Raises:
        LocalError: There is none.
    """
    status = job.status
    published = {record.revision: record.artifact for record in status.history if record.artifact}
    if status.artifact:
        published[status.revision] = status.artifact
    artifact = published.get(reference.revision or status.revision)
    if artifact:
        return artifact
    phases = {record.revision: record.phase for record in status.history} | {status.revision: status.phase}
    phase = phases.get(reference.revision or status.revision, "there is no such revision")
    what = f"Revision {reference.revision} of {reference.job}" if reference.revision else f"{reference.job}"
    others = " and ".join(f"{reference.job}@{number}" for number in sorted(published))
    raise LocalError(
        f"{what} has published no artifact ({phase})" + (f"; there is {others}." if others else "."),
        ExitCode.NOT_FOUND,
    )
