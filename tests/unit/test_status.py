"""Conditions as tools read them: kstatus (Flux, Argo CD, kubectl wait) in every state of a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase
from finetune_api.spec import Metric
from finetune_api.stage import STAGES, Stage
from finetune_operator.reconcile import plan
from finetune_operator.runs import Observed, ObservedRun, RunState, Trouble
from finetune_operator.status import phase_of
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

REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


def status_after(*runs: ObservedRun, stop: bool = False, job: FineTuneJob | None = None) -> FineTuneJobStatus:
    return plan(job or a_job(), Observed(runs, stop_requested=stop), after(seconds=11)).status


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
        (WAITING, "Unknown", "True", "False", Phase.PREPARING),
        (TRAINING, "Unknown", "True", "False", Phase.TRAINING),
        (RETRYING, "Unknown", "True", "False", Phase.TRAINING),
        (STOPPED, "Unknown", "False", "False", Phase.SUSPENDED),
        (SUCCEEDED, "True", "False", "False", Phase.SUCCEEDED),
        (FAILED, "False", "False", "True", Phase.FAILED),
        (REJECTED, "False", "False", "True", Phase.REJECTED),
    ],
    ids=["waiting", "training", "retrying", "stopped", "succeeded", "failed", "rejected"],
)
def test_what_tools_read(status: FineTuneJobStatus, ready: str, reconciling: str, stalled: str, phase: Phase) -> None:
    said = [
        condition(status, type_).status
        for type_ in (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)
    ]
    assert said == [ready, reconciling, stalled]
    assert status.phase is phase
    assert phase_of(status.conditions) is phase


def test_all_conditions_are_there_from_the_first_second() -> None:
    assert [entry.type for entry in WAITING.conditions] == list(ConditionType)


def test_stages_that_have_not_begun_say_what_they_wait_for() -> None:
    assert condition(WAITING, ConditionType.TRAINED).message == "Waits for prepare."
    assert condition(TRAINING, ConditionType.PUBLISHED).message == "Waits for train."


def test_stages_that_will_not_begin_say_why() -> None:
    assert condition(FAILED, ConditionType.TRAINED).message == "Not reached: prepare failed."
    assert condition(FAILED, ConditionType.TRAINED).reason == "NotReached"


def test_a_retry_says_why() -> None:
    ready = condition(RETRYING, ConditionType.READY)
    assert ready.reason == "Retrying"
    assert ready.message == (
        "train is tried again: train was killed by SIGKILL; when nobody did that, the memory did not suffice."
    )
    assert condition(RETRYING, ConditionType.TRAINED).reason == "Killed"
    assert condition(RETRYING, ConditionType.STALLED).message == ready.message


def test_a_retry_that_cannot_begin_says_what_is_in_its_way_now() -> None:
    full = Trouble(Reason.QUOTA_EXCEEDED, "The quota has no room for it.", after(seconds=20))
    again = a_run(Stage.TRAIN, RunState.PENDING, attempt=2, trouble=full)
    status = status_after(succeeded(Stage.PREPARE), killed(Stage.TRAIN), again)
    for type_ in (ConditionType.READY, ConditionType.TRAINED, ConditionType.STALLED):
        assert (condition(status, type_).reason, condition(status, type_).message) == (full.reason, full.message)


def test_failure_says_what_is_wrong() -> None:
    assert condition(FAILED, ConditionType.READY).message == "prepare met BadData."
    assert condition(FAILED, ConditionType.DATA_PREPARED).reason == "BadData"


def test_failure_says_how_to_try_again() -> None:
    remedy = "apply a changed spec for the next revision, or delete the job and apply the same one to try it again"
    assert condition(FAILED, ConditionType.RECONCILING).message == f"No further attempt is made: {remedy}."
    refused = failed(Stage.TRAIN, Reason.PERMISSION_DENIED)
    assert refused.report
    refused = replace(refused, report=refused.report.model_copy(update={"checkpoint": a_checkpoint(30)}))
    told = condition(status_after(succeeded(Stage.PREPARE), refused), ConditionType.RECONCILING).message
    assert told.endswith("to try it again, from its checkpoint of step 30.")


def test_transition_time_changes_only_with_the_status() -> None:
    job = a_job()
    first = plan(job, Observed((a_run(Stage.PREPARE),)), after(seconds=0)).status
    job = job.model_copy(update={"status": first})
    second = plan(job, Observed((succeeded(Stage.PREPARE),)), after(seconds=60)).status
    assert condition(second, ConditionType.RECONCILING).last_transition_time == "2026-03-01T12:00:00Z"
    assert condition(second, ConditionType.DATA_PREPARED).last_transition_time == "2026-03-01T12:01:00Z"


def test_conditions_speak_of_the_generation_they_saw() -> None:
    status = status_after(job=a_job(generation=7))
    assert status.observed_generation == 7
    assert {entry.observed_generation for entry in status.conditions} == {7}
