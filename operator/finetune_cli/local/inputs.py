"""Whether the data and the base model of a job have changed since they were prepared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_api.spec import FineTuneJobSpec
from finetune_cli.local.state import StateDirectory, write_atomic

_FILE_SCHEME = "file:///"
_WILDCARDS = frozenset("*?[")

Stamp = tuple[str, int, int]
"""Path, size in bytes and modification time in nanoseconds of a file."""


class InputsRecord(BaseModel):
    """``inputs.json``: the files that an inputs digest was computed from."""

    model_config = ConfigDict(frozen=True)

    digest: str
    files: tuple[Stamp, ...]


class UnknownInputs(Exception):
    """The inputs cannot be read; the message is the last line of the trainer's error."""


def stamps(spec: FineTuneJobSpec) -> tuple[Stamp, ...] | None:
    """The files of the data, the base model and the harness; None if some are not on this machine."""
    dataset, harness = spec.dataset, spec.evaluation.harness_path
    uris = [spec.model.uri, *(split.uri for split in (dataset.train, dataset.validation, dataset.test) if split.uri)]
    teacher = spec.distillation and spec.distillation.teacher
    uris += [part.uri for part in (spec.model.adapter, teacher, harness) if part and part.uri]
    if not all(uri.startswith(_FILE_SCHEME) for uri in uris):
        return None
    try:
        found = [(path, path.stat()) for path in sorted({path for uri in uris for path in _files(uri)})]
        return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)
    except OSError:
        return None


def _files(uri: str) -> Iterator[Path]:
    """The files at an address, or below the directory before its first wildcard."""
    path = Path(unquote(urlsplit(uri).path))
    if not path.exists():
        path = Path(*takewhile(lambda part: not _WILDCARDS & set(part), path.parts))
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def recorded(state: StateDirectory) -> InputsRecord | None:
    """The last record; None if there is no valid one."""
    try:
        return InputsRecord.model_validate_json((state.path / "inputs.json").read_bytes())
    except (OSError, ValidationError):
        return None


def record(state: StateDirectory, digest: str, files: tuple[Stamp, ...] | None) -> None:
    """Record the files of a digest, unless some are not on this machine.

    Raises:
        OSError: The state directory is not writable.
    """
    if files is not None:
        write_atomic(state.path / "inputs.json", InputsRecord(digest=digest, files=files).model_dump_json().encode())


@dataclass(frozen=True)
class Digests:
    """What the trainer computes from the content of inputs."""

    inputs: str
    """Of the data and the base model."""
    harness: str | None
    """Of the files of evaluation.harnessPath."""


async def current_digests(command: Sequence[str], config: Path) -> Digests:
    """The digests of the inputs as they are now.

    Args:
        command: The command of the trainer.
        config: ``stage.json`` of a prepare stage of the job.

    Raises:
        UnknownInputs: They cannot be read.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        "inputs",
        "--config",
        str(config),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    try:
        found = json.loads(out)
        return Digests(str(found["inputsDigest"]), found.get("harnessDigest"))
    except (ValueError, KeyError, TypeError):
        lines = errors.decode(errors="replace").strip().splitlines()
        problem = lines[-1] if lines else f"the check ended with exit code {process.returncode}"
        raise UnknownInputs(problem) from None
