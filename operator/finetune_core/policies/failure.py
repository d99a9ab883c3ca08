"""Why a run ended: the stage's own word first, then what the executor saw, then the exit code."""

from __future__ import annotations

import signal

from finetune_api.failures import ExitCode, Reason
from finetune_api.stage import Stage, StageError, StageReport
from finetune_core.runs import ObservedRun, RunState

_REASON_OF_EXIT_CODE = {
    ExitCode.BAD_CONFIGURATION: Reason.BAD_CONFIGURATION,
    ExitCode.BAD_DATA: Reason.BAD_DATA,
    ExitCode.NOT_FOUND: Reason.NOT_FOUND,
    ExitCode.UNAVAILABLE: Reason.UNAVAILABLE,
    ExitCode.INTERNAL: Reason.INTERNAL_ERROR,
    ExitCode.STOPPED: Reason.STOPPED,
    ExitCode.DIVERGED: Reason.DIVERGED,
    ExitCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    ExitCode.DOES_NOT_FIT: Reason.OUT_OF_MEMORY,
}


def own_report(run: ObservedRun) -> StageReport | None:
    """The run's report, unless it speaks of another run."""
    report = run.report
    if report is None or (report.stage, report.attempt) != (run.id.stage, run.id.attempt):
        return None
    return report


def has_result(report: StageReport) -> bool:
    """Whether the report holds what its stage is there to find."""
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
    return _error(run, Reason.INTERNAL_ERROR, "ended without saying what came out; its log may tell more")


def lost(run_stage: Stage, attempt: int) -> StageError:
    """The error of a run that was there and is gone."""
    return StageError(
        reason=Reason.KILLED,
        message=f"{run_stage}, attempt {attempt}, disappeared before it ended; somebody or something removed it.",
        exit_code=ExitCode.INTERNAL,
    )


def _unexplained(run: ObservedRun) -> StageError:
    """The error of a run that failed and left no word."""
    code = run.exit_code
    if run.state is RunState.STOPPED or code == ExitCode.STOPPED:
        return _error(run, Reason.STOPPED, "was stopped")
    if run.disrupted:
        return _error(run, Reason.STOPPED, "was ended together with what it ran on")
    if code is None:
        return _error(run, Reason.KILLED, "ended, and nobody knows how; its log may tell more")
    if code in _REASON_OF_EXIT_CODE:
        return _error(run, _REASON_OF_EXIT_CODE[ExitCode(code)], f"ended with exit code {code}; its log may tell more")
    return _from_exit_status(run, code)


def _from_exit_status(run: ObservedRun, code: int) -> StageError:
    number = -code if code < 0 else code - 128
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        name = signal.Signals(number).name
        return _error(run, Reason.KILLED, f"was killed by {name}; when nobody did that, the memory did not suffice")
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
