"""The reasons of a failure: the exit code, who has to act, whether the stage is tried again.

Exit codes follow BSD ``sysexits.h`` where one fits, so that a person who sees only the code of a container can look
it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from finetune_api.tables.table import table


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


class Retry(StrEnum):
    """Whether a failed stage is tried again; the value is the text of ``docs/status.md``."""

    NEVER = "no"
    FREE = "yes, not counted"
    """It does not use up resilience.maxRestarts."""
    COUNTED = "yes, counted"


class Reason(StrEnum):
    """The machine-readable reason of a failure, CamelCase as Kubernetes conditions want it."""

    BAD_CONFIGURATION = "BadConfiguration"
    REVISION_TAKEN = "RevisionTaken"
    BAD_DATA = "BadData"
    NOT_FOUND = "NotFound"
    PERMISSION_DENIED = "PermissionDenied"
    DIVERGED = "Diverged"
    OUT_OF_MEMORY = "OutOfMemory"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    GATE_FAILED = "GateFailed"
    SETUP_FAILED = "SetupFailed"
    DISK_FULL = "DiskFull"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    FORBIDDEN = "Forbidden"
    UNAVAILABLE = "Unavailable"
    STOPPED = "Stopped"
    GPU_UNAVAILABLE = "GpuUnavailable"
    KILLED = "Killed"
    STALLED = "Stalled"
    INTERNAL_ERROR = "InternalError"

    @property
    def row(self) -> ReasonRow:
        return REASONS[self]

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of a stage, or of ``finetune run``, that fails for this reason."""
        return self.row.exit_code or ExitCode.INTERNAL


@dataclass(frozen=True)
class ReasonRow:
    """One reason."""

    meaning: str
    """What happened, for ``docs/status.md``."""
    fault: Fault
    """Who has to act."""
    retry: Retry
    exit_code: ExitCode | None
    """Exit code of a stage that fails for this reason; None where only the operator finds it."""


REASONS = table(
    Reason,
    {
        Reason.BAD_CONFIGURATION: ReasonRow(
            "fields that do not go together with this model or data, or a place in storage where another run writes",
            Fault.USER,
            Retry.NEVER,
            ExitCode.BAD_CONFIGURATION,
        ),
        Reason.REVISION_TAKEN: ReasonRow(
            "an earlier job of that name, with another spec, left its result there; the job goes on as the next "
            "revision",
            Fault.USER,
            Retry.NEVER,
            ExitCode.BAD_CONFIGURATION,
        ),
        Reason.BAD_DATA: ReasonRow(
            "the data cannot be used; file and line are named", Fault.USER, Retry.NEVER, ExitCode.BAD_DATA
        ),
        Reason.NOT_FOUND: ReasonRow(
            "model, revision or data is not there", Fault.USER, Retry.NEVER, ExitCode.NOT_FOUND
        ),
        Reason.PERMISSION_DENIED: ReasonRow(
            "the credentials do not reach it, or do not exist", Fault.USER, Retry.NEVER, ExitCode.PERMISSION_DENIED
        ),
        Reason.DIVERGED: ReasonRow(
            "the loss became infinite or NaN; try a lower learning rate", Fault.USER, Retry.NEVER, ExitCode.DIVERGED
        ),
        Reason.OUT_OF_MEMORY: ReasonRow(
            "it does not fit the GPUs or the memory; more workers, a higher ZeRO stage, smaller batches per device",
            Fault.USER,
            Retry.NEVER,
            ExitCode.DOES_NOT_FIT,
        ),
        Reason.DEADLINE_EXCEEDED: ReasonRow(
            "longer than `resilience.activeDeadlineSeconds`", Fault.USER, Retry.NEVER, None
        ),
        Reason.GATE_FAILED: ReasonRow("the result is not good enough to publish", Fault.USER, Retry.NEVER, None),
        Reason.SETUP_FAILED: ReasonRow(
            "a pod cannot be set up, such as for a Secret that does not exist", Fault.USER, Retry.NEVER, None
        ),
        Reason.DISK_FULL: ReasonRow(
            "the scratch space is too small", Fault.CLUSTER, Retry.NEVER, ExitCode.DOES_NOT_FIT
        ),
        Reason.UNSCHEDULABLE: ReasonRow(
            "no node took the pods for `resilience.pendingTimeoutSeconds`", Fault.CLUSTER, Retry.NEVER, None
        ),
        Reason.QUOTA_EXCEEDED: ReasonRow(
            "no room in the namespace's quota for as long", Fault.CLUSTER, Retry.NEVER, None
        ),
        Reason.IMAGE_UNAVAILABLE: ReasonRow("the trainer image cannot be pulled", Fault.CLUSTER, Retry.NEVER, None),
        Reason.FORBIDDEN: ReasonRow(
            "the cluster denies the pods, such as by Pod Security", Fault.CLUSTER, Retry.NEVER, None
        ),
        Reason.UNAVAILABLE: ReasonRow("storage or hub did not answer", Fault.CLUSTER, Retry.FREE, ExitCode.UNAVAILABLE),
        Reason.STOPPED: ReasonRow(
            "preempted, drained or asked to stop, after a checkpoint", Fault.CLUSTER, Retry.FREE, ExitCode.STOPPED
        ),
        Reason.GPU_UNAVAILABLE: ReasonRow(
            "torch does not find the pod's GPUs: the node's driver or device plugin, or an image without CUDA",
            Fault.CLUSTER,
            Retry.COUNTED,
            ExitCode.UNAVAILABLE,
        ),
        Reason.KILLED: ReasonRow(
            "ended by a signal or lost without a word", Fault.CLUSTER, Retry.COUNTED, ExitCode.INTERNAL
        ),
        Reason.STALLED: ReasonRow(
            "no progress for `resilience.stallTimeoutSeconds`", Fault.CLUSTER, Retry.COUNTED, None
        ),
        Reason.INTERNAL_ERROR: ReasonRow(
            "a fault in finetune; please report it", Fault.OPERATOR, Retry.COUNTED, ExitCode.INTERNAL
        ),
    },
)
