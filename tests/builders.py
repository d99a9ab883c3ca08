"""Builds objects for tests, with defaults for all that a test does not set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.evaluation import Baseline, BaselineKind, Evaluation, GateResult, MetricResult
from finetune_api.failures import ExitCode, Reason
from finetune_api.job import Condition, ConditionType, FineTuneJob, FineTuneJobStatus, StageStatus
from finetune_api.spec import Metric
from finetune_api.stage import (
    CheckpointRef,
    EvaluateResult,
    JobIdentity,
    PrepareResult,
    Progress,
    PublishResult,
    RespondResult,
    Stage,
    StageError,
    StageReport,
    TeacherAnswers,
    TrainResult,
)
from finetune_core.runs import ObservedRun, RunId, RunState

RUNS_CODE: dict[str, Any] = {"task": {"type": "CodeGeneration"}, "evaluation": {"allowCodeExecution": True}}
"""Parts of the spec of a job that runs generated programs."""

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def after(**time: float) -> datetime:
    """A time after noon: ``after(seconds=5)``."""
    return NOON + timedelta(**time)


def manifest(**spec: Any) -> dict[str, Any]:
    """A minimal manifest, with sections of its spec replaced or added."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "intents", "namespace": "team-a", "uid": "uid-1"},
        "spec": {
            "model": {"uri": "hf://owner/encoder"},
            "task": {"type": "TextClassification"},
            "dataset": {"train": {"uri": "s3://data/intents.jsonl"}},
            "output": {"uri": "s3://adapters"},
            **spec,
        },
    }


def a_job(status: FineTuneJobStatus | None = None, generation: int = 1, **spec: Any) -> FineTuneJob:
    """A valid job."""
    import json

    job = FineTuneJob.model_validate_json(json.dumps(manifest(**spec)))
    metadata = job.metadata.model_copy(update={"generation": generation})
    return job.model_copy(update={"metadata": metadata, **({"status": status} if status else {})})


def an_identity(name: str = "intents", revision: int = 1, **fields: str) -> JobIdentity:
    """A revision that uses its own training."""
    digest = "sha256:" + "0" * 64
    known = {"namespace": "team-a", "uid": "uid-1", "spec_digest": digest, "training_digest": digest}
    return JobIdentity.model_validate(
        {**known, "name": name, "revision": revision, "training_revision": revision, **fields}
    )


def run_id(stage: Stage, attempt: int = 1, revision: int = 1) -> RunId:
    return RunId(revision, stage, attempt)


def a_run(
    stage: Stage,
    state: RunState = RunState.RUNNING,
    attempt: int = 1,
    revision: int = 1,
    started_at: datetime | None = NOON,
    **facts: Any,
) -> ObservedRun:
    """An observed run that has been polled since its start."""
    facts = {"silent_since": started_at, **facts}
    return ObservedRun(RunId(revision, stage, attempt), state, started_at=started_at, **facts)


def succeeded(
    stage: Stage, attempt: int = 1, revision: int = 1, evaluation: Evaluation | None = None, **facts: Any
) -> ObservedRun:
    """A run that succeeded."""
    return a_run(
        stage,
        RunState.SUCCEEDED,
        attempt,
        revision,
        **{
            "finished_at": after(seconds=10),
            "exit_code": 0,
            "report": a_report(stage, attempt, evaluation=evaluation),
            **facts,
        },
    )


def failed(stage: Stage, reason: Reason, attempt: int = 1, revision: int = 1, **facts: Any) -> ObservedRun:
    """A run that failed with a report."""
    code = reason.exit_code
    state = RunState.STOPPED if code is ExitCode.STOPPED else RunState.FAILED
    error = StageError(reason=reason, message=f"{stage} met {reason}.", exit_code=code)
    return a_run(
        stage,
        state,
        attempt,
        revision,
        **{
            "finished_at": after(seconds=10),
            "exit_code": int(code),
            "report": StageReport(stage=stage, attempt=attempt, seconds=10.0, error=error),
            **facts,
        },
    )


def killed(stage: Stage, attempt: int = 1, **facts: Any) -> ObservedRun:
    """A run that ended by SIGKILL, without a report."""
    return a_run(stage, RunState.FAILED, attempt, **{"finished_at": after(seconds=10), "exit_code": 137, **facts})


def a_report(stage: Stage, attempt: int = 1, evaluation: Evaluation | None = None) -> StageReport:
    """The report of a stage that succeeded."""
    results: dict[Stage, dict[str, Any]] = {
        Stage.PREPARE: PrepareResult(
            uri="s3://adapters/prepared",
            digest=DIGEST,
            inputs_digest=DIGEST,
            examples={"train": 4967, "validation": 621, "test": 621},
            tokens=300_000,
            duplicates=34,
            invalid=0,
            labels=9,
            parameters=22_000_000,
        ),
        Stage.RESPOND: RespondResult(
            uri="s3://adapters/prepared",
            digest=DIGEST,
            examples={"train": 4900, "validation": 600, "test": 621},
            tokens=310_000,
            responses=TeacherAnswers(
                used=5500,
                left_out=88,
                kept=40,
                prompt_tokens=200_000,
                completion_tokens=300_000,
                problems=("the answer is cut at the limit: 88 prompts",),
            ),
        ),
        Stage.TRAIN: TrainResult(
            uri="s3://adapters/trained",
            digest=DIGEST,
            steps=420,
            epochs=3.0,
            loss=0.4123,
            validation_loss=0.5,
            tokens=900_000,
            tokens_per_second=12_345.6,
            stopped_early=False,
            trainable_parameters=300_000,
        ),
        Stage.EVALUATE: EvaluateResult(
            uri="s3://adapters/team-a/intents/r1/evaluated", digest=DIGEST, evaluation=evaluation or an_evaluation()
        ),
        Stage.PUBLISH: PublishResult(uri="s3://adapters/team-a/intents/r1/artifact", digest=DIGEST, size=1_400_000),
    }
    return StageReport(stage=stage, attempt=attempt, seconds=10.0, result=results[stage])


def an_evaluation(*gates: GateResult, baseline: float = 0.79, tuned: float = 0.84) -> Evaluation:
    """An evaluation with accuracy and macro F1."""
    return Evaluation(
        split="test",
        examples=621,
        baseline=Baseline(kind=BaselineKind.LINEAR_PROBE),
        metrics=tuple(
            MetricResult(
                name=name,
                baseline=baseline,
                tuned=tuned,
                change=round(tuned - baseline, 6),
                interval=(0.02, 0.08),
                higher_is_better=True,
            )
            for name in (Metric.ACCURACY, Metric.MACRO_F1)
        ),
        gates=gates,
    )


def a_progress(stage: Stage = Stage.TRAIN, attempt: int = 1, updated_at: datetime = NOON, **facts: Any) -> Progress:
    """The progress of a training stage."""
    return Progress(
        stage=stage,
        attempt=attempt,
        updated_at=updated_at.timestamp(),
        **{"activity": "training", "done": 40, "total": 120, **facts},
    )


def a_checkpoint(step: int) -> CheckpointRef:
    return CheckpointRef(step=step, uri=f"s3://adapters/checkpoints/step-{step}")


def condition(status: FineTuneJobStatus, type_: ConditionType) -> Condition:
    """The condition of a type."""
    return next(entry for entry in status.conditions if entry.type is type_)


def stage_status(status: FineTuneJobStatus, stage: Stage) -> StageStatus:
    """The status entry of a stage."""
    return next(entry for entry in status.stages if entry.name is stage)
