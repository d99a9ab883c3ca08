"""Revisions: superseded by a changed spec, or reopened by a person."""

from __future__ import annotations

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import StageState, spec_digest
from finetune_api.spec import Metric
from finetune_api.stage import STAGES, Stage
from finetune_core.policies.revision import HISTORY_LIMIT, current_revision, next_revision, reopened
from finetune_core.reconcile import plan
from finetune_core.runs import Observed
from tests.builders import NOON, a_job, a_run, after, an_evaluation, failed, stage_status, succeeded


def test_same_spec_is_the_same_revision() -> None:
    status = current_revision(a_job().spec, a_job().status, Observed(), NOON)
    assert current_revision(a_job().spec, status, Observed(), after(hours=1)) is status


def test_revision_number_is_not_used_for_two_specs() -> None:
    crashed = a_run(Stage.PREPARE, revision=1, spec_digest="sha256:of-a-spec-that-was-never-recorded")
    assert current_revision(a_job().spec, a_job().status, Observed((crashed,)), NOON).revision == 2


def test_run_of_the_same_spec_keeps_its_revision_number() -> None:
    crashed = a_run(Stage.PREPARE, revision=1, spec_digest=spec_digest(a_job().spec))
    assert current_revision(a_job().spec, a_job().status, Observed((crashed,)), NOON).revision == 1


def test_history_keeps_the_latest_revisions() -> None:
    status = a_job().status
    for number in range(HISTORY_LIMIT + 5):
        status = next_revision(status, f"sha256:{number}", NOON)
    assert len(status.history) == HISTORY_LIMIT
    assert status.history[-1].revision == status.revision - 1


def test_failed_job_is_reopened_at_the_failed_stage() -> None:
    job = a_job()
    runs = (succeeded(Stage.PREPARE), failed(Stage.TRAIN, Reason.PERMISSION_DENIED))
    dead = plan(job, Observed(runs), NOON).status
    status = reopened(dead, after(hours=1))
    assert stage_status(status, Stage.TRAIN).state is StageState.PENDING
    made = plan(job.model_copy(update={"status": status}), Observed(runs), after(seconds=30))
    assert [(run.id.stage, run.id.attempt, run.id.revision) for run in made.start] == [(Stage.TRAIN, 2, 1)]
    assert made.status.failure is None


def test_finished_job_is_not_reopened() -> None:
    done = plan(a_job(), Observed(tuple(succeeded(stage) for stage in STAGES)), NOON).status
    assert reopened(done, after(hours=1)) is done


def test_rejected_job_is_not_reopened() -> None:
    evaluation = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))
    runs = (succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=evaluation))
    refused = plan(a_job(), Observed(runs), NOON).status
    assert reopened(refused, after(hours=1)) is refused


def test_changed_output_is_a_new_revision() -> None:
    here = a_job(output={"uri": "file:///home/me/out"})
    there = a_job(output={"uri": "file:///home/you/out"})
    assert spec_digest(here.spec) != spec_digest(there.spec)
