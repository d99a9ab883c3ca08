"""Failure reasons: the exit code, who must act, and whether the operator retries the stage.

Exit codes follow BSD ``sysexits.h`` where possible, so that users can look up the exit code of a container.
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
    """Who must act on a failure."""

    USER = "User"
    CLUSTER = "Cluster"
    OPERATOR = "Operator"


class Retry(StrEnum):
    """Whether the operator retries a failed stage; the value is the text in ``docs/status.md``."""

    NEVER = "no"
    FREE = "yes, not counted"
    """The retry does not count towards resilience.maxRestarts."""
    COUNTED = "yes, counted"


class Reason(StrEnum):
    """The machine-readable reason of a failure, in CamelCase as in Kubernetes conditions."""

    BAD_CONFIGURATION = "BadConfiguration"
    REVISION_TAKEN = "RevisionTaken"
    BAD_DATA = "BadData"
    NOT_FOUND = "NotFound"
    PERMISSION_DENIED = "PermissionDenied"
    DIVERGED = "Diverged"
    OUT_OF_MEMORY = "OutOfMemory"
    BUDGET_EXCEEDED = "BudgetExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    GATE_FAILED = "GateFailed"
    CODE_EXECUTION_FORBIDDEN = "CodeExecutionForbidden"
    SETUP_FAILED = "SetupFailed"
    DISK_FULL = "DiskFull"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    INCOMPLETE_GANG = "IncompleteGang"
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
        """The exit code of a stage or of ``finetune run`` that fails for this reason."""
        return self.row.exit_code or ExitCode.INTERNAL


@dataclass(frozen=True)
class ReasonRow:
    """One reason."""

    meaning: str
    """What happened, for ``docs/status.md``."""
    fault: Fault
    """Who must act."""
    retry: Retry
    exit_code: ExitCode | None
    """The exit code of a stage that fails for this reason; None for reasons that only the operator detects."""


REASONS = table(
    Reason,
    {
        Reason.BAD_CONFIGURATION: ReasonRow(
            "fields that do not fit the model or the data, an output address that another run writes to, or a setting "
            "of storage, such as a certificate that is not trusted",
            Fault.USER,
            Retry.NEVER,
            ExitCode.BAD_CONFIGURATION,
        ),
        Reason.REVISION_TAKEN: ReasonRow(
            "an earlier job of the same name stored results of another spec or other data there; it continues as the "
            "next revision",
            Fault.USER,
            Retry.NEVER,
            ExitCode.BAD_CONFIGURATION,
        ),
        Reason.BAD_DATA: ReasonRow(
            "the data is invalid; the message names file and line", Fault.USER, Retry.NEVER, ExitCode.BAD_DATA
        ),
        Reason.NOT_FOUND: ReasonRow(
            "the model, its revision or the data does not exist", Fault.USER, Retry.NEVER, ExitCode.NOT_FOUND
        ),
        Reason.PERMISSION_DENIED: ReasonRow(
            "the credentials are missing or do not grant access, or object lock protects what has to be replaced",
            Fault.USER,
            Retry.NEVER,
            ExitCode.PERMISSION_DENIED,
        ),
        Reason.DIVERGED: ReasonRow(
            "the loss became infinite or NaN; try a lower learning rate", Fault.USER, Retry.NEVER, ExitCode.DIVERGED
        ),
        Reason.OUT_OF_MEMORY: ReasonRow(
            "the job needs more GPU or pod memory; add workers, raise the ZeRO stage or use smaller batches per device",
            Fault.USER,
            Retry.NEVER,
            ExitCode.DOES_NOT_FIT,
        ),
        Reason.BUDGET_EXCEEDED: ReasonRow(
            "the job's budget for requests to an endpoint, or for their tokens, is used up; the answers are kept",
            Fault.USER,
            Retry.NEVER,
            ExitCode.BAD_CONFIGURATION,
        ),
        Reason.DEADLINE_EXCEEDED: ReasonRow(
            "the job ran longer than `resilience.activeDeadlineSeconds`", Fault.USER, Retry.NEVER, None
        ),
        Reason.GATE_FAILED: ReasonRow("the tuned model did not pass every gate", Fault.USER, Retry.NEVER, None),
        Reason.CODE_EXECUTION_FORBIDDEN: ReasonRow(
            "the job runs generated programs (`evaluation.allowCodeExecution`), which the operator does not allow; it "
            "goes on by itself when the operator does",
            Fault.USER,
            Retry.NEVER,
            None,
        ),
        Reason.SETUP_FAILED: ReasonRow(
            "a pod cannot be set up, for example because a Secret does not exist", Fault.USER, Retry.NEVER, None
        ),
        Reason.DISK_FULL: ReasonRow(
            "the scratch space is too small", Fault.CLUSTER, Retry.NEVER, ExitCode.DOES_NOT_FIT
        ),
        Reason.UNSCHEDULABLE: ReasonRow(
            "the pods were unschedulable for `resilience.pendingTimeoutSeconds`", Fault.CLUSTER, Retry.NEVER, None
        ),
        Reason.QUOTA_EXCEEDED: ReasonRow(
            "the namespace had no quota left for `resilience.pendingTimeoutSeconds`, or can never have enough",
            Fault.CLUSTER,
            Retry.NEVER,
            None,
        ),
        Reason.INCOMPLETE_GANG: ReasonRow(
            "only some workers got a node within 5 minutes; they released their nodes and start again later",
            Fault.CLUSTER,
            Retry.FREE,
            None,
        ),
        Reason.IMAGE_UNAVAILABLE: ReasonRow("the trainer image cannot be pulled", Fault.CLUSTER, Retry.NEVER, None),
        Reason.FORBIDDEN: ReasonRow(
            "the cluster rejects the pods, for example because of Pod Security", Fault.CLUSTER, Retry.NEVER, None
        ),
        Reason.UNAVAILABLE: ReasonRow(
            "object storage, the Hugging Face Hub or an endpoint is unreachable; the job fails if it does not respond "
            "once within `resilience.pendingTimeoutSeconds`",
            Fault.CLUSTER,
            Retry.FREE,
            ExitCode.UNAVAILABLE,
        ),
        Reason.STOPPED: ReasonRow(
            "preempted, drained or stopped on request, after a checkpoint", Fault.CLUSTER, Retry.FREE, ExitCode.STOPPED
        ),
        Reason.GPU_UNAVAILABLE: ReasonRow(
            "torch does not find the GPUs of the pod; check driver, device plugin, and CUDA support of the image",
            Fault.CLUSTER,
            Retry.COUNTED,
            ExitCode.UNAVAILABLE,
        ),
        Reason.KILLED: ReasonRow(
            "killed by a signal, or lost without a report", Fault.CLUSTER, Retry.COUNTED, ExitCode.INTERNAL
        ),
        Reason.STALLED: ReasonRow(
            "no progress for `resilience.stallTimeoutSeconds`", Fault.CLUSTER, Retry.COUNTED, None
        ),
        Reason.INTERNAL_ERROR: ReasonRow(
            "a bug in finetune; please report it", Fault.OPERATOR, Retry.COUNTED, ExitCode.INTERNAL
        ),
    },
)
