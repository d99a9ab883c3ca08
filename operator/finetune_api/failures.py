"""How a stage ends: exit codes, the reason of a failure and whose fault it is.

Exit codes follow BSD ``sysexits.h`` where one fits, so that a person who sees only the code of a container can look
it up.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """The exit code of a stage's process."""

    DONE = 0
    BAD_CONFIGURATION = 64
    BAD_DATA = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    STOPPED = 75
    DIVERGED = 76
    PERMISSION_DENIED = 77
    DOES_NOT_FIT = 78


class Fault(StrEnum):
    """Who has to act on a failure."""

    USER = "User"
    CLUSTER = "Cluster"
    OPERATOR = "Operator"


class Reason(StrEnum):
    """The machine-readable reason of a failure, CamelCase as Kubernetes conditions want it."""

    BAD_CONFIGURATION = "BadConfiguration"
    BAD_DATA = "BadData"
    NOT_FOUND = "NotFound"
    UNAVAILABLE = "Unavailable"
    GPU_UNAVAILABLE = "GpuUnavailable"
    INTERNAL_ERROR = "InternalError"
    STOPPED = "Stopped"
    DIVERGED = "Diverged"
    PERMISSION_DENIED = "PermissionDenied"
    OUT_OF_MEMORY = "OutOfMemory"
    DISK_FULL = "DiskFull"
    KILLED = "Killed"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    GATE_FAILED = "GateFailed"
    REVISION_TAKEN = "RevisionTaken"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    SETUP_FAILED = "SetupFailed"
    FORBIDDEN = "Forbidden"


EXIT_CODE_OF: dict[Reason, ExitCode] = {
    Reason.BAD_CONFIGURATION: ExitCode.BAD_CONFIGURATION,
    Reason.BAD_DATA: ExitCode.BAD_DATA,
    Reason.NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.GPU_UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.INTERNAL_ERROR: ExitCode.INTERNAL,
    Reason.STOPPED: ExitCode.STOPPED,
    Reason.DIVERGED: ExitCode.DIVERGED,
    Reason.PERMISSION_DENIED: ExitCode.PERMISSION_DENIED,
    Reason.OUT_OF_MEMORY: ExitCode.DOES_NOT_FIT,
    Reason.DISK_FULL: ExitCode.DOES_NOT_FIT,
    Reason.KILLED: ExitCode.INTERNAL,
    Reason.REVISION_TAKEN: ExitCode.BAD_CONFIGURATION,
}

FAULT_OF: dict[Reason, Fault] = {
    Reason.BAD_CONFIGURATION: Fault.USER,
    Reason.BAD_DATA: Fault.USER,
    Reason.NOT_FOUND: Fault.USER,
    Reason.UNAVAILABLE: Fault.CLUSTER,
    Reason.GPU_UNAVAILABLE: Fault.CLUSTER,
    Reason.INTERNAL_ERROR: Fault.OPERATOR,
    Reason.STOPPED: Fault.CLUSTER,
    Reason.DIVERGED: Fault.USER,
    Reason.PERMISSION_DENIED: Fault.USER,
    Reason.OUT_OF_MEMORY: Fault.USER,
    Reason.DISK_FULL: Fault.CLUSTER,
    Reason.KILLED: Fault.CLUSTER,
    Reason.STALLED: Fault.CLUSTER,
    Reason.DEADLINE_EXCEEDED: Fault.USER,
    Reason.GATE_FAILED: Fault.USER,
    Reason.REVISION_TAKEN: Fault.USER,
    Reason.UNSCHEDULABLE: Fault.CLUSTER,
    Reason.QUOTA_EXCEEDED: Fault.CLUSTER,
    Reason.IMAGE_UNAVAILABLE: Fault.CLUSTER,
    Reason.SETUP_FAILED: Fault.USER,
    Reason.FORBIDDEN: Fault.CLUSTER,
}


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
        return EXIT_CODE_OF[self.reason]
