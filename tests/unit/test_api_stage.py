"""The interface of a stage: its configuration, termination message and exit code."""

from __future__ import annotations

import json

import pytest
from api_cases import CLASSIFICATION

from finetune_api.evaluation import Baseline, BaselineKind, Evaluation, GateResult, MetricResult, SliceScore
from finetune_api.failures import ExitCode, Reason, StageFailure
from finetune_api.spec import FineTuneJobSpec, Metric
from finetune_api.stage import (
    TERMINATION_MESSAGE_LIMIT,
    CheckpointRef,
    Device,
    EvaluateResult,
    PrepareResult,
    Progress,
    Stage,
    StageConfig,
    StageError,
    StageReport,
    TeacherAnswers,
    TrainResult,
    World,
)
from finetune_api.tables.reasons import REASONS
from tests.builders import a_report, an_identity

THIRD = 1 / 3


def failed(message: str) -> StageReport:
    error = StageError(reason=Reason.BAD_DATA, message=message, exit_code=ExitCode.BAD_DATA, rank=3)
    checkpoint = CheckpointRef(step=40, uri="s3://adapters/" + "a" * 500)
    return StageReport(stage=Stage.TRAIN, attempt=2, seconds=12.5, error=error, checkpoint=checkpoint)


@pytest.mark.parametrize("character", ["a", "é", "語", "🙂", '"', "\\", "\x01", "\n"])
@pytest.mark.parametrize("length", [1, 600, 3000, 4096, 4097, 100_000])
def test_a_termination_message_of_any_length_fits_and_is_valid_json(character: str, length: int) -> None:
    report = failed(character * length)
    encoded = report.to_termination_message()
    assert len(encoded) <= TERMINATION_MESSAGE_LIMIT
    read = StageReport.model_validate_json(encoded)
    assert read.error
    assert report.error
    assert report.error.message.startswith(read.error.message.removesuffix("…"))
    assert read.checkpoint == report.checkpoint
    assert read.exit_code == ExitCode.BAD_DATA


def test_a_message_is_truncated_no_more_than_needed() -> None:
    assert len(failed("é" * 100_000).to_termination_message()) > TERMINATION_MESSAGE_LIMIT - 16
    assert failed("short").to_termination_message().count("…".encode()) == 0


def test_a_message_may_contain_bytes_that_are_not_utf_8() -> None:
    name = b"caf\xe9.csv".decode("utf-8", "surrogateescape")
    read = StageReport.model_validate_json(failed(f"cannot read {name}").to_termination_message())
    assert read.error
    assert read.error.message == "cannot read caf?.csv"


LONGEST_URI = "s3://" + "🙂" * 315 + "/" + "n" * 63 + "/" + "j" * 63 + "/r99999/"


def test_the_longest_results_fit_into_a_termination_message() -> None:
    metric = MetricResult(
        name=Metric.TOKEN_ACCURACY,
        baseline=THIRD,
        tuned=2 * THIRD,
        change=-THIRD,
        interval=(-THIRD / 1000, THIRD * 1e-9),
        higher_is_better=False,
    )
    gate = GateResult(metric=Metric.TOKEN_ACCURACY, minimum_improvement=-THIRD / 1000, value=-THIRD, passed=False)
    evaluation = Evaluation(
        split="validation",
        examples=10**9,
        baseline=Baseline(kind=BaselineKind.MAJORITY_CLASS),
        metrics=(metric,) * 5,
        gates=(gate,) * 16,
        slices=(SliceScore(column="region", value="north", examples=9, baseline=0, tuned=THIRD, interval=(0, 1)),) * 12,
        notes=("the test split is small",),
    )
    digest = "sha256:" + "0" * 64
    evaluate = EvaluateResult(uri=LONGEST_URI + "evaluated", digest=digest, evaluation=evaluation)
    report = StageReport(stage=Stage.EVALUATE, attempt=999, seconds=THIRD * 1e6, result=evaluate)
    assert len(report.to_termination_message()) <= TERMINATION_MESSAGE_LIMIT

    train = TrainResult(
        uri=LONGEST_URI + "trained",
        digest=digest,
        steps=10**9,
        epochs=THIRD,
        loss=THIRD,
        validation_loss=THIRD,
        tokens=10**15,
        tokens_per_second=1e9 * THIRD,
        stopped_early=False,
        trainable_parameters=10**12,
    )
    checkpoint = CheckpointRef(step=10**9, uri=LONGEST_URI + "checkpoints/step-1000000000")
    report = StageReport(stage=Stage.TRAIN, attempt=999, seconds=1.0, result=train, checkpoint=checkpoint)
    assert len(report.to_termination_message()) <= TERMINATION_MESSAGE_LIMIT


def test_a_report_rounds_numbers_to_six_significant_digits() -> None:
    report = StageReport(stage=Stage.PREPARE, attempt=1, seconds=1234.56789)
    assert json.loads(report.to_termination_message()) == {"stage": "prepare", "attempt": 1, "seconds": 1234.57}


def test_a_loss_that_is_not_finite_is_omitted_from_progress() -> None:
    progress = Progress(stage=Stage.TRAIN, attempt=1, activity="x", updated_at=1.0, loss=float("nan"))
    assert progress.loss is None
    assert Progress.model_validate_json(progress.model_dump_json()) == progress


def test_a_configuration_has_the_address_of_each_stage() -> None:
    config = StageConfig(
        job=an_identity(namespace="team-a", name="intents", uid="u", revision=2),
        stage=Stage.TRAIN,
        attempt=1,
        spec=FineTuneJobSpec.model_validate_json(json.dumps(CLASSIFICATION)),
        world=World(workers=2, processes_per_worker=4, device=Device.GPU),
    )
    assert config.world.size == 8
    assert config.layout.artifact == "s3://adapters/team-a/intents/r2/artifact"
    assert StageConfig.model_validate_json(config.model_dump_json()) == config


def test_the_last_problems_of_answers_are_left_out_where_there_is_no_room() -> None:
    problems = tuple(f"{number} at {'包' * 150}" for number in range(8))
    answers = TeacherAnswers(used=1, left_out=9, requests=10, prompt_tokens=1, completion_tokens=1, problems=problems)
    report = a_report(Stage.PREPARE)
    assert isinstance(report.result, PrepareResult)
    result = report.result.model_copy(update={"responses": answers})
    message = report.model_copy(update={"result": result}).to_termination_message()
    assert len(message) <= TERMINATION_MESSAGE_LIMIT
    found = StageReport.model_validate_json(message).result
    assert isinstance(found, PrepareResult)
    assert found.responses
    assert found.responses.problems == problems[: len(found.responses.problems)]
    assert len(found.responses.problems) > 5


def test_every_reason_has_a_fault_and_every_failure_of_a_stage_an_exit_code() -> None:
    assert set(REASONS) == set(Reason)
    decided_outside = {Reason.STALLED, Reason.DEADLINE_EXCEEDED, Reason.GATE_FAILED}
    decided_outside |= {Reason.UNSCHEDULABLE, Reason.QUOTA_EXCEEDED, Reason.INCOMPLETE_GANG, Reason.IMAGE_UNAVAILABLE}
    decided_outside |= {Reason.SETUP_FAILED, Reason.FORBIDDEN, Reason.CODE_EXECUTION_FORBIDDEN}
    assert {reason for reason, row in REASONS.items() if row.exit_code} == set(Reason) - decided_outside
    assert ExitCode.DONE not in [row.exit_code for row in REASONS.values()]
    assert StageFailure(Reason.NOT_FOUND, "no such model").exit_code == 66
