"""Revisions: superseded by a changed spec, or reopened by a person."""

from __future__ import annotations

from finetune_api.digests import spec_digest
from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, StageState
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_core.policies.revision import HISTORY_LIMIT, current_revision, evaluated_again, reopened, trained_again
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun
from tests.builders import NOON, a_job, a_run, after, an_evaluation, failed, killed, stage_status, succeeded
from tests.usual_stages import STAGES


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
    for _ in range(HISTORY_LIMIT + 5):
        status = trained_again(status, a_job().spec, NOON)
    assert len(status.history) == HISTORY_LIMIT
    assert status.history[-1].revision == status.revision - 1


def test_changed_task_files_start_a_revision_with_the_same_training() -> None:
    runs = (succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE))
    status = plan(a_job(), Observed(runs), NOON).status
    again = evaluated_again(status, a_job().spec, after(hours=1))
    assert (again.revision, again.evaluation) == (2, None)
    assert again.training == status.training
    assert again.history[-1].revision == 1


def test_failed_job_is_reopened_at_the_failed_stage() -> None:
    job = a_job()
    runs = (succeeded(Stage.PREPARE), failed(Stage.TRAIN, Reason.PERMISSION_DENIED))
    dead = plan(job, Observed(runs), NOON).status
    status = reopened(dead, after(hours=1))
    assert stage_status(status, Stage.TRAIN).state is StageState.PENDING
    made = plan(job.model_copy(update={"status": status}), Observed(runs), after(seconds=30))
    assert [(run.id.stage, run.id.attempt, run.id.revision) for run in made.start] == [(Stage.TRAIN, 2, 1)]
    assert made.status.failure is None


def test_duration_of_a_stage_excludes_the_time_in_which_the_job_was_suspended() -> None:
    job = in_status(a_job(), succeeded(Stage.PREPARE), a_run(Stage.TRAIN), at=10)
    stopped = (succeeded(Stage.PREPARE), failed(Stage.TRAIN, Reason.STOPPED, finished_at=after(seconds=20)))
    suspended = plan(job, Observed(stopped, stop_requested=True), after(seconds=20)).status
    job = job.model_copy(update={"status": suspended})
    resumed = plan(job, Observed(stopped), after(hours=1, seconds=20)).status
    assert stage_status(resumed, Stage.TRAIN).paused_seconds == 3600
    assert stage_status(resumed, Stage.PREPARE).paused_seconds == 0
    job = job.model_copy(update={"status": resumed})
    again = plan(job, Observed((*stopped, a_run(Stage.TRAIN, attempt=2))), after(hours=1, seconds=30)).status
    assert stage_status(again, Stage.TRAIN).paused_seconds == 3600


def test_duration_of_a_stage_excludes_the_time_before_a_person_retried_it() -> None:
    job = a_job(resilience={"maxRestarts": 0})
    runs = (succeeded(Stage.PREPARE), failed(Stage.TRAIN, Reason.BAD_DATA))
    status = plan(job, Observed(runs), after(seconds=10)).status
    assert stage_status(reopened(status, after(hours=2, seconds=10)), Stage.TRAIN).paused_seconds == 7200


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


def in_status(job: FineTuneJob, *runs: ObservedRun, at: float = 10) -> FineTuneJob:
    """The job with the status after a reconcile."""
    return job.model_copy(update={"status": plan(job, Observed(runs), after(seconds=at)).status})


def with_spec_of(job: FineTuneJob, other: FineTuneJob) -> FineTuneJob:
    return other.model_copy(update={"status": job.status})


GATED = a_job(evaluation={"gates": [{"metric": "accuracy", "minimum": 0.9}]})
RELAXED = a_job(evaluation={"gates": [{"metric": "accuracy", "minimum": 0.8}]})
SLOWER = a_job(training={"learningRate": 1e-5})
REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


def rejected_by_its_gate() -> FineTuneJob:
    return in_status(
        GATED, succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED)
    )


def test_a_status_of_an_earlier_version_continues() -> None:
    job = in_status(GATED, succeeded(Stage.PREPARE))
    old = job.model_copy(update={"status": job.status.model_copy(update={"training": None})})
    runs = (succeeded(Stage.PREPARE), killed(Stage.TRAIN))
    (train,) = plan(in_status(old, *runs), Observed(runs), after(hours=1)).start
    assert (train.id, train.job.training_revision) == ((1, Stage.TRAIN, 2), 1)


def test_a_relaxed_gate_uses_the_trained_weights() -> None:
    job = with_spec_of(rejected_by_its_gate(), RELAXED)
    first = plan(job, Observed(), after(hours=1))
    (prepare,) = first.start
    assert (prepare.id, prepare.job.training_revision) == ((2, Stage.PREPARE, 1), 1)
    job = job.model_copy(update={"status": first.status})
    prepared = succeeded(Stage.PREPARE, revision=2, finished_at=after(hours=1, seconds=20))
    second = plan(job, Observed((prepared,)), after(hours=1, seconds=30))
    assert [(run.id, run.job.training_revision) for run in second.start] == [((2, Stage.EVALUATE, 1), 1)]
    trained = stage_status(second.status, Stage.TRAIN)
    assert (trained.state, trained.attempt) == (StageState.SUCCEEDED, 0)
    assert trained.message == "Not trained again: the weights of revision 1 are used"
    assert [record.revision for record in second.status.history] == [1]


def test_a_changed_training_uses_no_other() -> None:
    job = with_spec_of(rejected_by_its_gate(), SLOWER)
    (prepare,) = plan(job, Observed(), after(hours=1)).start
    assert (prepare.id.revision, prepare.job.training_revision) == (2, 2)


def test_a_relaxed_gate_in_mid_training_continues_from_the_checkpoints() -> None:
    job = in_status(GATED, succeeded(Stage.PREPARE), a_run(Stage.TRAIN))
    status = current_revision(RELAXED.spec, job.status, Observed(), after(hours=1))
    assert status.training
    assert (status.revision, status.training.revision, status.training.weights_digest) == (2, 1, "")


def test_the_same_spec_again_continues_with_its_revision() -> None:
    job = with_spec_of(in_status(GATED, succeeded(Stage.PREPARE), a_run(Stage.TRAIN)), SLOWER)
    job = with_spec_of(in_status(job, at=60), GATED)
    assert (job.status.revision, [record.revision for record in job.status.history]) == (2, [1])
    status = plan(job, Observed(), after(seconds=90)).status
    assert (status.revision, [record.revision for record in status.history]) == (1, [2])
    assert stage_status(status, Stage.PREPARE).attempt == 2  # The Job of the first attempt may still exist.
    third = with_spec_of(job.model_copy(update={"status": status}), RELAXED)
    assert plan(third, Observed(), after(seconds=120)).status.revision == 3


def test_a_published_revision_returns_without_training() -> None:
    published = in_status(a_job(), *(succeeded(stage) for stage in STAGES))
    assert published.status.artifact
    other = in_status(with_spec_of(published, SLOWER), *(succeeded(stage, revision=2) for stage in STAGES), at=60)
    (record,) = other.status.history
    assert record.training
    assert record.training.deleted
    back = plan(with_spec_of(other, a_job()), Observed(), after(hours=1)).status
    assert (back.revision, back.artifact) == (1, published.status.artifact)
    assert back.training
    assert back.training.weights_digest


def test_a_deleted_training_is_not_used() -> None:
    rejected = rejected_by_its_gate()
    other = in_status(with_spec_of(rejected, SLOWER), *(succeeded(stage, revision=2) for stage in STAGES), at=60)
    status = current_revision(RELAXED.spec, other.status, Observed(), after(hours=1))
    assert status.training
    assert (status.revision, status.training.revision) == (3, 3)
    back = current_revision(GATED.spec, other.status, Observed(), after(hours=1))
    assert back.training
    assert (back.revision, back.training.weights_digest) == (1, "")


def test_changed_data_starts_the_next_revision_with_its_own_training() -> None:
    job = with_spec_of(rejected_by_its_gate(), RELAXED)
    taken = failed(Stage.PREPARE, Reason.REVISION_TAKEN, revision=2, finished_at=after(hours=1))
    job = in_status(job, at=3600)
    (prepare,) = plan(job, Observed((taken,)), after(hours=1, seconds=10)).start
    assert (prepare.id.revision, prepare.job.training_revision) == (3, 3)
