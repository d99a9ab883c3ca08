"""Errors of the local executor itself, rather than of a stage."""

from __future__ import annotations

import errno
from pathlib import Path

from finetune_api.failures import ExitCode


class LocalError(Exception):
    """Makes `finetune run` exit with one sentence."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


def cannot_write(path: Path, error: OSError) -> LocalError:
    """The error for a state directory that is not writable."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalError(
            f"The disk of {path} is full; free some space, or set FINETUNE_HOME to a directory on another disk.",
            ExitCode.DOES_NOT_FIT,
        )
    return LocalError(
        f"Cannot write to {path}: {error.strerror or error}; set FINETUNE_HOME to a writable directory.",
        ExitCode.PERMISSION_DENIED,
    )
