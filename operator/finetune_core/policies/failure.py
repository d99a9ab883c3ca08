"""Why a run failed: from the report of the stage, else from the executor's observation, else from the exit code."""

from __future__ import annotations

import signal
from datetime import datetime

from finetune_api.failures import ExitCode, Reason
from finetune_api.job import FailureStatus
from finetune_api.stage import Stage, StageError, StageReport
from finetune_core.runs import ObservedRun, RunId, RunState
from finetune_core.times import to_text

_REASON_OF_EXIT_CODE = {
    ExitCode.BAD_CONFIGURATION: Reason.BAD_CONFIGURATION,
    ExitCode.BAD_DATA: Reason.BAD_DATA,
    ExitCode.NOT_FOUND: Reason.NOT_FOUND,
    ExitCode.UNAVAILABLE: Reason.UNAVAILABLE,
    ExitCode.INTERNAL: Reason.INTERNAL_ERROR,
    ExitCode.STOPPED: Reason.STOPPED,
    ExitCode.DIVERGED: Reason.DIVERGED,
    ExitCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    # A stage that lacks memory can still report that.
    ExitCode.DOES_NOT_FIT: Reason.DISK_FULL,
}


def own_report(run: ObservedRun) -> StageReport | None:
    """The report of the run, unless it is about another run."""
    report = run.report
    if report is None or (report.stage, report.attempt) != (run.id.stage, run.id.attempt):
        return None
    return report


def has_result(report: StageReport) -> bool:
    """Whether the report has the result of its stage."""
    return report.error is None and report.result is not None and report.result.stage is report.stage


def error_of(run: ObservedRun) -> StageError | None:
    """Why an ended run failed; None when it succeeded."""
    report = own_report(run)
    if report and report.error:
        return report.error
    if run.error:
        return run.error
    if run.state is not RunState.SUCCEEDED:
        return _unexplained(run)
    if report and has_result(report):
        return None
    return _error(run, Reason.INTERNAL_ERROR, "exited with code 0 but reported no result; see its log")


def failure_status(
    run: RunId,
    reason: Reason,
    message: str,
    retried: bool,
    *,
    error: StageError | None = None,
    not_before: datetime | None = None,
) -> FailureStatus:
    """A failure for ``status.failure``.

    Args:
        run: The attempt that failed.
        reason: Why.
        message: The sentence.
        retried: Whether another attempt follows.
        error: The error of its stage.
        not_before: When a service that the stage has asked allows the next attempt.
    """
    return FailureStatus(
        reason=reason,
        message=message,
        stage=run.stage,
        attempt=run.attempt,
        rank=error.rank if error else None,
        exit_code=error.exit_code if error else None,
        fault=reason.row.fault,
        retried=retried,
        retry_after=to_text(not_before) if not_before else None,
    )


def lost(run_stage: Stage, attempt: int) -> StageError:
    """The error of a run that was observed and no longer exists."""
    return StageError(
        reason=Reason.KILLED,
        message=f"{run_stage}, attempt {attempt}, disappeared before it ended: its Job or process was removed.",
        exit_code=ExitCode.INTERNAL,
    )


def _unexplained(run: ObservedRun) -> StageError:
    """The error of a run that failed without a report."""
    code = run.exit_code
    if run.state is RunState.STOPPED or code == ExitCode.STOPPED:
        return _error(run, Reason.STOPPED, "was stopped")
    if run.disrupted:
        return _error(run, Reason.STOPPED, "was stopped together with its node or executor")
    if code is None:
        return _error(run, Reason.KILLED, "ended with an unknown exit code; see its log")
    if code in _REASON_OF_EXIT_CODE:
        full = " and could not write its report: its disk is probably full" if code == ExitCode.DOES_NOT_FIT else ""
        return _error(run, _REASON_OF_EXIT_CODE[ExitCode(code)], f"ended with exit code {code}{full}; see its log")
    return _from_exit_status(run, code)


def _from_exit_status(run: ObservedRun, code: int) -> StageError:
    number = -code if code < 0 else code - 128
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        name = signal.Signals(number).name
        return _error(
            run, Reason.KILLED, f"was killed by {name}; if no one killed it, the memory was probably exhausted"
        )
    if number in set(signal.Signals):
        return _error(run, Reason.INTERNAL_ERROR, f"crashed with {signal.Signals(number).name}; see its log")
    return _error(run, Reason.INTERNAL_ERROR, f"ended with exit code {code}; see its log")


def _error(run: ObservedRun, reason: Reason, what: str) -> StageError:
    code = run.exit_code
    if code is None:
        code = reason.exit_code
    elif code < 0:
        code = 128 - code
    return StageError(reason=reason, message=f"{run.id.stage} {what}.", exit_code=min(code, 255))
