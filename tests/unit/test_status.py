"""Conditions in every state of a job, as kstatus (Flux, Argo CD, kubectl wait) reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import Fault, Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.remedies import after_last_attempt
from finetune_core.runs import Observed, ObservedRun, PendingCause, RunState
from tests.builders import (
    a_checkpoint,
    a_job,
    a_run,
    after,
    an_evaluation,
    condition,
    failed,
    killed,
    succeeded,
)
from tests.usual_stages import STAGES

REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


def status_after(*runs: ObservedRun, stop: bool = False, job: FineTuneJob | None = None) -> FineTuneJobStatus:
    return plan(job or a_job(), Observed(runs, stop_requested=stop), after(seconds=11)).status


HELD = status_after(stop=True)
WAITING = status_after()
TRAINING = status_after(succeeded(Stage.PREPARE), a_run(Stage.TRAIN))
RETRYING = status_after(succeeded(Stage.PREPARE), killed(Stage.TRAIN))
STOPPED = status_after(failed(Stage.PREPARE, Reason.STOPPED), stop=True)
SUCCEEDED = status_after(*[succeeded(stage) for stage in STAGES])
FAILED = status_after(failed(Stage.PREPARE, Reason.BAD_DATA))
REJECTED = status_after(succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED))


@pytest.mark.parametrize(
    ("status", "ready", "reconciling", "stalled", "phase"),
    [
        (HELD, "Unknown", "False", "False", Phase.SUSPENDED),
        (WAITING, "Unknown", "True", "False", Phase.PREPARING),
        (TRAINING, "Unknown", "True", "False", Phase.TRAINING),
        (RETRYING, "Unknown", "True", "False", Phase.TRAINING),
        (STOPPED, "Unknown", "False", "False", Phase.SUSPENDED),
        (SUCCEEDED, "True", "False", "False", Phase.SUCCEEDED),
        (FAILED, "False", "False", "True", Phase.FAILED),
        (REJECTED, "False", "False", "True", Phase.REJECTED),
    ],
    ids=["held", "waiting", "training", "retrying", "stopped", "succeeded", "failed", "rejected"],
)
def test_kstatus_conditions_in_each_state(
    status: FineTuneJobStatus, ready: str, reconciling: str, stalled: str, phase: Phase
) -> None:
    statuses = [
        condition(status, type_).status
        for type_ in (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)
    ]
    assert statuses == [ready, reconciling, stalled]
    assert status.phase is phase


OVERALL = {ConditionType.ACCEPTED, ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED}


@pytest.mark.parametrize(
    ("status", "stages", "conditions"),
    [
        (HELD, [], set()),
        (WAITING, [Stage.PREPARE], {ConditionType.DATA_PREPARED}),
        (TRAINING, [Stage.PREPARE, Stage.TRAIN], {ConditionType.DATA_PREPARED, ConditionType.TRAINED}),
        (FAILED, [Stage.PREPARE], {ConditionType.DATA_PREPARED}),
        (SUCCEEDED, [*STAGES], {*ConditionType} - OVERALL - {ConditionType.RESPONDED}),
    ],
    ids=["held", "waiting", "training", "failed", "succeeded"],
)
def test_stage_and_its_condition_appear_when_the_stage_starts(
    status: FineTuneJobStatus, stages: list[Stage], conditions: set[ConditionType]
) -> None:
    assert [stage.name for stage in status.stages] == stages
    types = [entry.type for entry in status.conditions]
    assert types == [type_ for type_ in ConditionType if type_ in OVERALL | conditions]


def test_rejected_result_sets_the_published_condition() -> None:
    published = condition(REJECTED, ConditionType.PUBLISHED)
    assert (published.status, published.reason) == ("False", "GateFailed")
    assert published.message.startswith("Not published: ")


def test_status_of_an_older_operator_can_be_read() -> None:
    """Older operators listed every stage from the start."""
    listed = tuple(WAITING.stage(name) for name in STAGES)
    job = a_job(WAITING.model_copy(update={"stages": listed}))
    status = plan(job, Observed((a_run(Stage.PREPARE),)), after(seconds=12)).status
    assert status.phase is Phase.PREPARING
    assert {entry.type for entry in status.conditions} == OVERALL | {ConditionType.DATA_PREPARED}


def test_retry_message_contains_the_cause() -> None:
    ready = condition(RETRYING, ConditionType.READY)
    assert ready.reason == "Retrying"
    assert ready.message == (
        "Stage train is retried: train was killed by SIGKILL; if no one killed it, the memory was probably exhausted."
    )
    assert condition(RETRYING, ConditionType.TRAINED).reason == "Killed"
    assert condition(RETRYING, ConditionType.STALLED).message == ready.message


def test_pending_retry_shows_its_current_cause() -> None:
    full = PendingCause(Reason.QUOTA_EXCEEDED, "The quota has no room for it.")
    again = a_run(Stage.TRAIN, RunState.PENDING, attempt=2, pending_cause=full)
    status = status_after(succeeded(Stage.PREPARE), killed(Stage.TRAIN), again)
    for type_ in (ConditionType.READY, ConditionType.TRAINED, ConditionType.STALLED):
        assert (condition(status, type_).reason, condition(status, type_).message) == (full.reason, full.message)


def test_failure_message_is_in_the_conditions() -> None:
    assert condition(FAILED, ConditionType.READY).message == "prepare met BadData."
    assert condition(FAILED, ConditionType.DATA_PREPARED).reason == "BadData"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (Reason.BAD_DATA, "Correct the data, then delete the job and apply it again; or apply a spec with other data"),
        (Reason.BUDGET_EXCEEDED, "Apply a spec with a larger budget to start the next revision, which asks only what"),
        (Reason.DIVERGED, "The same spec would diverge again: apply one with another training"),
        (
            Reason.PERMISSION_DENIED,
            "Correct the cause first, as the same job would fail again. Then delete the job and apply it again from "
            "the checkpoint at step 30;",
        ),
        (
            Reason.DISK_FULL,
            "Apply a changed spec to start the next revision, or delete the job and apply the same spec to retry from "
            "the checkpoint at step 30.",
        ),
    ],
)
def test_failure_message_explains_what_helps(reason: Reason, advice: str) -> None:
    run = failed(Stage.TRAIN, reason)
    assert run.report
    run = replace(run, report=run.report.model_copy(update={"checkpoint": a_checkpoint(30)}))
    message = condition(status_after(succeeded(Stage.PREPARE), run), ConditionType.RECONCILING).message
    assert message.startswith(f"There are no more attempts. {advice}")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.row.fault is Fault.USER])
def test_no_advice_after_a_users_fault_is_to_try_the_same_again(reason: Reason) -> None:
    advice = after_last_attempt(reason, " from the checkpoint at step 30")
    assert "the same spec to retry" not in advice
    assert "{" not in advice
    assert advice.endswith(".")


def test_a_rejected_result_names_its_report_and_what_helps() -> None:
    assert REJECTED.evaluation
    assert REJECTED.evaluation.uri == "s3://adapters/team-a/intents/r1/evaluated"
    assert condition(REJECTED, ConditionType.READY).message.endswith(f" {REJECTED.evaluation.uri}/report.html")
    advice = condition(REJECTED, ConditionType.RECONCILING).message
    assert "Relax the gate in spec.evaluation to evaluate the stored weights again without training" in advice


def test_transition_time_changes_only_with_the_status() -> None:
    job = a_job()
    first = plan(job, Observed((a_run(Stage.PREPARE),)), after(seconds=0)).status
    job = job.model_copy(update={"status": first})
    second = plan(job, Observed((succeeded(Stage.PREPARE),)), after(seconds=60)).status
    assert condition(second, ConditionType.RECONCILING).last_transition_time == "2026-03-01T12:00:00Z"
    assert condition(second, ConditionType.DATA_PREPARED).last_transition_time == "2026-03-01T12:01:00Z"


def test_conditions_have_the_observed_generation() -> None:
    status = status_after(job=a_job(generation=7))
    assert status.observed_generation == 7
    assert {entry.observed_generation for entry in status.conditions} == {7}
