"""How a stage fails: with a reason and one sentence."""

from __future__ import annotations

from finetune_api.tables.reasons import ExitCode, Fault, Reason


class StageFailure(Exception):
    """Ends a stage with one clear sentence: what is wrong, where, and what to do.

    Raise it at the place that knows the sentence; it is caught once, at the top of the stage's process, and becomes the
    exit code and the ``error`` of the StageReport.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def exit_code(self) -> ExitCode:
        return self.reason.exit_code


__all__ = ["ExitCode", "Fault", "Reason", "StageFailure"]
