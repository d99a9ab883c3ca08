"""The error of an ended run, from its report, the observation or the exit code."""

from __future__ import annotations

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import Stage, StageError
from finetune_core.policies.failure import error_of
from finetune_core.runs import RunState
from tests.builders import a_report, a_run, failed, killed, succeeded


def test_run_with_a_result_has_no_error() -> None:
    assert error_of(succeeded(Stage.TRAIN)) is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (64, Reason.BAD_CONFIGURATION),
        (65, Reason.BAD_DATA),
        (66, Reason.NOT_FOUND),
        (69, Reason.UNAVAILABLE),
        (70, Reason.INTERNAL_ERROR),
        (75, Reason.STOPPED),
        (76, Reason.DIVERGED),
        (77, Reason.PERMISSION_DENIED),
        (78, Reason.DISK_FULL),
        (137, Reason.KILLED),
        (143, Reason.KILLED),
        (139, Reason.INTERNAL_ERROR),
        (-9, Reason.KILLED),
        (-11, Reason.INTERNAL_ERROR),
        (1, Reason.INTERNAL_ERROR),
        (255, Reason.INTERNAL_ERROR),
        (None, Reason.KILLED),
    ],
)
def test_run_without_report_gets_its_reason_from_the_exit_code(code: int | None, reason: Reason) -> None:
    error = error_of(a_run(Stage.TRAIN, RunState.FAILED, exit_code=code))
    assert error is not None
    assert error.reason is reason
    assert 0 < error.exit_code <= 255


def test_report_of_the_stage_takes_precedence() -> None:
    error = error_of(failed(Stage.TRAIN, Reason.DIVERGED, exit_code=1, disrupted=True))
    assert error is not None
    assert error.message == "train met Diverged."


def test_observation_of_the_executor_comes_second() -> None:
    observed = StageError(reason=Reason.OUT_OF_MEMORY, message="OOMKilled.", exit_code=137)
    error = error_of(killed(Stage.TRAIN, error=observed))
    assert error == observed


def test_report_of_another_attempt_is_ignored() -> None:
    error = error_of(succeeded(Stage.TRAIN, attempt=2, report=a_report(Stage.TRAIN, attempt=1)))
    assert error is not None
    assert error.reason is Reason.INTERNAL_ERROR


def test_report_without_the_result_of_its_stage_is_a_failure() -> None:
    hollow = a_report(Stage.TRAIN).model_copy(update={"result": None})
    error = error_of(succeeded(Stage.TRAIN, report=hollow))
    assert error is not None


def test_report_with_the_result_of_another_stage_is_a_failure() -> None:
    other = a_report(Stage.TRAIN).model_copy(update={"result": a_report(Stage.PREPARE).result})
    assert error_of(succeeded(Stage.TRAIN, report=other)) is not None


def test_run_that_its_environment_ended_was_stopped() -> None:
    error = error_of(killed(Stage.TRAIN, disrupted=True))
    assert error is not None
    assert error.reason is Reason.STOPPED
