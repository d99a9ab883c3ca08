"""The plan from the first reconcile to publication, and after a crash at any point."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase, StageState
from finetune_api.stage import Device, PrepareResult, PublishResult, Stage, TeacherAnswers
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, PendingCause, Plan, RunState
from finetune_core.summaries import summary
from tests.builders import (
    NOON,
    a_checkpoint,
    a_job,
    a_progress,
    a_run,
    after,
    condition,
    killed,
    run_id,
    stage_status,
    succeeded,
)
from tests.usual_stages import STAGES


def pass_(job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 0) -> tuple[FineTuneJob, Plan]:
    """One reconcile, and the job with the resulting status."""
    made = plan(job, Observed(runs, stop_requested=stop), after(seconds=at))
    return job.model_copy(update={"status": made.status}), made


def started(made: Plan) -> list[tuple[Stage, int]]:
    return [(run.id.stage, run.id.attempt) for run in made.start]


def finished_job() -> FineTuneJob:
    job, _ = pass_(a_job(), *[succeeded(stage) for stage in STAGES])
    return job


class TestFirstReconcile:
    def test_starts_prepare_of_revision_1(self) -> None:
        job, made = pass_(a_job())
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE)]
        assert made.stop == ()
        assert (job.status.revision, job.status.phase) == (1, Phase.PREPARING)
        assert job.status.start_time == "2026-03-01T12:00:00Z"

    def test_run_has_the_identity_of_its_job(self) -> None:
        _, made = pass_(a_job())
        config = made.start[0].config(workspace="/tmp/w", port=1234)
        assert (config.job.namespace, config.job.name, config.job.uid) == ("team-a", "intents", "uid-1")
        assert (config.stage, config.attempt, config.workspace) == (Stage.PREPARE, 1, "/tmp/w")
        assert config.layout.prepared == "s3://adapters/team-a/intents/r1/prepared"
        assert config.job.spec_digest == made.status.spec_digest

    def test_starts_nothing_while_suspended(self) -> None:
        job, made = pass_(a_job(), stop=True)
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.phase is Phase.SUSPENDED


class TestStageOrder:
    def test_each_stage_starts_after_the_previous_one_succeeded(self) -> None:
        job = a_job()
        runs: list[ObservedRun] = []
        order = []
        for _ in STAGES:
            job, made = pass_(job, *runs)
            order += started(made)
            runs.append(succeeded(made.start[0].id.stage))
        job, made = pass_(job, *runs)
        assert order == [(stage, 1) for stage in STAGES]
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.phase is Phase.SUCCEEDED

    def test_train_uses_the_world_of_the_spec_and_other_stages_one_process(self) -> None:
        job = a_job(distributed={"workers": 2, "gpusPerWorker": 4})
        worlds = {}
        runs: list[ObservedRun] = []
        for _ in STAGES:
            job, made = pass_(job, *runs)
            world = made.start[0].world
            worlds[made.start[0].id.stage] = (world.workers, world.processes_per_worker, world.device)
            runs.append(succeeded(made.start[0].id.stage))
        assert worlds == {
            Stage.PREPARE: (1, 1, Device.CPU),
            Stage.TRAIN: (2, 4, Device.GPU),
            Stage.EVALUATE: (1, 1, Device.GPU),
            Stage.PUBLISH: (1, 1, Device.CPU),
        }

    def test_job_without_gpus_runs_on_cpus(self) -> None:
        job, _ = pass_(a_job(distributed={"workers": 2, "gpusPerWorker": 0}))
        _, made = pass_(job, succeeded(Stage.PREPARE))
        assert (made.start[0].world.size, made.start[0].world.device) == (2, Device.CPU)

    def test_stage_is_not_started_twice_before_it_is_observed(self) -> None:
        job, _ = pass_(a_job())
        again, made = pass_(job, at=5)
        assert made.start == ()
        assert again.status == job.status
        assert made.requeue_after == timedelta(seconds=25)

    def test_final_status_contains_the_result(self) -> None:
        status = finished_job().status
        assert status.artifact is not None
        assert status.artifact.uri == "s3://adapters/team-a/intents/r1/artifact"
        assert status.evaluation is not None
        assert (status.evaluation.metric, status.evaluation.baseline_score, status.evaluation.score) == (
            "accuracy",
            "0.7900",
            "0.8400",
        )
        assert status.completion_time == "2026-03-01T12:00:00Z"
        assert [stage.message for stage in status.stages] == [
            "4,967 training, 621 validation and 621 test examples, 9 labels; 34 duplicates dropped",
            "420 steps, 3 epochs, loss 0.4123, validation loss 0.5, 12,346 tokens/s",
            "accuracy 0.8400, linear probe 0.7900 (+0.0500, better), on 621 test examples",
            "1.4 MB at s3://adapters/team-a/intents/r1/artifact",
        ]

    def test_what_the_data_was_read_as_is_in_the_message(self) -> None:
        prepared = succeeded(Stage.PREPARE)
        assert prepared.report is not None
        assert isinstance(prepared.report.result, PrepareResult)
        result = prepared.report.result.model_copy(update={"detected": "CSV separated by ';', windows-1252"})
        report = prepared.report.model_copy(update={"result": result})
        assert summary(report).endswith("; 34 duplicates dropped; read as CSV separated by ';', windows-1252")

    def test_the_answers_of_a_teacher_are_in_the_message(self) -> None:
        prepared = succeeded(Stage.PREPARE)
        assert prepared.report is not None
        assert isinstance(prepared.report.result, PrepareResult)
        answers = TeacherAnswers(
            used=6,
            left_out=7,
            requests=18,
            retries=4,
            kept=2,
            prompt_tokens=1300,
            completion_tokens=65,
            problems=("6 at a.jsonl:2: the answer is empty", "1 at a.jsonl:3: the answer calls a tool"),
        )
        result = prepared.report.result.model_copy(update={"responses": answers})
        assert summary(prepared.report.model_copy(update={"result": result})).endswith(
            "; 34 duplicates dropped; the teacher answered 6 of 13 prompts (18 requests, 2 answers kept from before, "
            "1,365 tokens); left out: 6 at a.jsonl:2: the answer is empty; 1 at a.jsonl:3: the answer calls a tool"
        )
        paid = answers.model_copy(update={"cost": 1234.5, "currency": "EUR"})
        result = prepared.report.result.model_copy(update={"responses": paid})
        assert "1,365 tokens, 1,234.50 EUR)" in summary(prepared.report.model_copy(update={"result": result}))

    def test_what_could_not_be_deleted_is_in_the_message(self) -> None:
        published = succeeded(Stage.PUBLISH)
        assert published.report is not None
        assert isinstance(published.report.result, PublishResult)
        result = published.report.result.model_copy(update={"note": "not cleaned up: object lock"})
        assert summary(published.report.model_copy(update={"result": result})).endswith("; not cleaned up: object lock")


class TestProgress:
    def test_is_in_the_status(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        reported = a_progress(
            eta_seconds=200.4, loss=0.51239, tokens_per_second=1234.56, checkpoint=a_checkpoint(30), updated_at=NOON
        )
        job, made = pass_(job, succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=reported))
        progress = made.status.progress
        assert progress is not None
        assert (progress.text, progress.percent, progress.eta) == ("train 40/120", 33, "3m20s")
        assert (progress.loss, progress.tokens_per_second) == (0.5124, 1234.6)
        assert made.status.checkpoint == a_checkpoint(30)
        assert stage_status(job.status, Stage.TRAIN).state is StageState.RUNNING
        assert condition(job.status, ConditionType.TRAINED).message == "Training."

    def test_of_some_pods_does_not_hide_the_pending_cause_of_others(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        cause = PendingCause(Reason.UNSCHEDULABLE, "No node takes worker 1.")
        progress = a_progress(checkpoint=a_checkpoint(30))
        job, _ = pass_(job, a_run(Stage.TRAIN, RunState.PENDING, pending_cause=cause, progress=progress))
        assert job.status.progress is not None
        assert job.status.progress.text == "train: waiting: Unschedulable"
        assert condition(job.status, ConditionType.TRAINED).message == cause.message
        assert job.status.checkpoint == a_checkpoint(30)

    def test_of_another_attempt_is_ignored(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        _, made = pass_(job, succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=a_progress(attempt=7)))
        assert made.status.progress is not None
        assert made.status.progress.text == "train: starting"

    def test_older_checkpoint_does_not_replace_a_newer_one(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        job, _ = pass_(job, a_run(Stage.TRAIN, progress=a_progress(checkpoint=a_checkpoint(60))))
        job, _ = pass_(job, a_run(Stage.TRAIN, progress=a_progress(checkpoint=a_checkpoint(30))))
        assert job.status.checkpoint == a_checkpoint(60)


class TestAfterACrash:
    def test_unrecorded_run_is_adopted(self) -> None:
        job, made = pass_(a_job(), a_run(Stage.PREPARE))
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).attempt == 1

    def test_all_stages_that_ended_meanwhile_are_recorded(self) -> None:
        _, made = pass_(a_job(), succeeded(Stage.PREPARE), killed(Stage.TRAIN), succeeded(Stage.TRAIN, attempt=2))
        assert started(made) == [(Stage.EVALUATE, 1)]
        assert stage_status(made.status, Stage.TRAIN).restarts == 1

    def test_succeeded_stage_is_not_restarted_when_its_run_is_deleted(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        job, made = pass_(job, a_run(Stage.TRAIN))
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).state is StageState.SUCCEEDED

    def test_lost_run_is_retried(self) -> None:
        job, _ = pass_(a_job())
        job, _ = pass_(job, a_run(Stage.PREPARE))
        job, made = pass_(job, at=20)
        assert made.start == ()
        assert job.status.failure is not None
        assert "disappeared" in job.status.failure.message
        _, made = pass_(job, at=22)
        assert started(made) == [(Stage.PREPARE, 2)]

    def test_run_that_never_appears_is_lost_after_30_seconds(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, at=31)
        assert made.start == ()
        _, made = pass_(job, at=33)
        assert started(made) == [(Stage.PREPARE, 2)]

    def test_older_of_two_live_attempts_is_stopped(self) -> None:
        job, made = pass_(a_job(), a_run(Stage.PREPARE, attempt=1), a_run(Stage.PREPARE, attempt=2))
        assert [run.id for run in made.stop] == [run_id(Stage.PREPARE, 1)]
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).attempt == 2


class TestFinishedJob:
    def test_starts_nothing_when_its_runs_are_deleted(self) -> None:
        job = finished_job()
        again, made = pass_(job, at=1e6)
        assert (made.start, made.stop, made.requeue_after) == ((), (), None)
        assert again.status == job.status

    def test_stops_live_runs(self) -> None:
        _, made = pass_(finished_job(), a_run(Stage.TRAIN, attempt=9))
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN, 9)]
        assert made.status.phase is Phase.SUCCEEDED

    def test_records_the_generation_of_a_change_that_does_not_affect_the_result(self) -> None:
        job = finished_job()
        changed = a_job(job.status, generation=2, resilience={"maxRestarts": 9})
        _, made = pass_(changed)
        assert made.start == ()
        assert made.status.observed_generation == 2
        assert {entry.observed_generation for entry in made.status.conditions} == {2}


class TestSuspendAndResume:
    def test_suspend_stops_the_run_with_time_for_a_checkpoint(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, a_run(Stage.PREPARE), stop=True)
        assert [(run.id, run.grace) for run in made.stop] == [(run_id(Stage.PREPARE), timedelta(minutes=5))]
        assert job.status.phase is Phase.SUSPENDING

    def test_suspended_is_reported_only_after_all_runs_have_ended(self) -> None:
        job, _ = pass_(a_job())
        stopped = a_run(Stage.PREPARE, RunState.STOPPED, exit_code=75, finished_at=NOON)
        job, made = pass_(job, stopped, stop=True)
        assert job.status.phase is Phase.SUSPENDED
        assert job.status.failure is None
        assert made.requeue_after is None

    def test_resume_starts_the_next_attempt_at_once(self) -> None:
        job, _ = pass_(a_job())
        stopped = a_run(Stage.PREPARE, RunState.STOPPED, exit_code=75, finished_at=NOON)
        job, _ = pass_(job, stopped, stop=True)
        job, made = pass_(job, stopped, at=1)
        assert started(made) == [(Stage.PREPARE, 2)]
        assert job.status.phase is Phase.PREPARING
        assert stage_status(job.status, Stage.PREPARE).restarts == 0

    def test_stage_that_succeeds_while_it_is_stopped_has_succeeded(self) -> None:
        job, _ = pass_(a_job())
        job, _ = pass_(job, succeeded(Stage.PREPARE), stop=True)
        assert stage_status(job.status, Stage.PREPARE).state is StageState.SUCCEEDED
        assert job.status.phase is Phase.SUSPENDED


def test_status_round_trips_through_json() -> None:
    status = finished_job().status
    stored = status.model_dump_json(exclude_none=True)
    assert FineTuneJobStatus.model_validate_json(stored) == status
