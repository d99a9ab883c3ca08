"""The exception that ends a stage: a reason and a one-sentence message."""

from __future__ import annotations

from finetune_api.tables.reasons import ExitCode, Fault, Reason

LONGEST_WAIT = 366 * 86400
"""Seconds of the longest wait for a service, which is a date for every clock."""


class StageFailure(Exception):
    """Ends a stage with a reason and a sentence that states what is wrong, where, and what to do.

    Raise it where the cause is known. The entry point of the process catches it and turns it into the exit code and the
    ``error`` of the StageReport.

    Args:
        reason: The reason.
        message: The sentence.
        retry_after: Seconds before which a service asks for no other attempt; None if it asks for nothing.
        progressed: Whether the service has answered before in this attempt.
    """

    def __init__(
        self, reason: Reason, message: str, *, retry_after: float | None = None, progressed: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.progressed = progressed

    @property
    def exit_code(self) -> ExitCode:
        return self.reason.exit_code


__all__ = ["LONGEST_WAIT", "ExitCode", "Fault", "Reason", "StageFailure"]
