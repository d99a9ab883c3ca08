"""What can go wrong with the local executor itself, rather than with a stage."""

from __future__ import annotations

import errno
from pathlib import Path

from finetune_api.failures import ExitCode


class LocalError(Exception):
    """Ends `finetune run` with one sentence."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


def cannot_write(path: Path, error: OSError) -> LocalError:
    """The sentence for a state directory that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalError(
            f"The disk of {path} is full; free some space, or set FINETUNE_HOME to a directory on another disk.",
            ExitCode.DOES_NOT_FIT,
        )
    return LocalError(
        f"Cannot write to {path}: {error.strerror or error}; set FINETUNE_HOME to a directory that you may write to.",
        ExitCode.PERMISSION_DENIED,
    )
