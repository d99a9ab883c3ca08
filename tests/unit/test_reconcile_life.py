"""The life of a job as the plan sees it: from the first look to publication, and what a crash leaves behind."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase, StageState
from finetune_api.stage import STAGES, Device, Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, Plan, RunState, Trouble
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


def pass_(job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 0) -> tuple[FineTuneJob, Plan]:
    """One pass, and the job with the status that it wrote."""
    made = plan(job, Observed(runs, stop_requested=stop), after(seconds=at))
    return job.model_copy(update={"status": made.status}), made


def started(made: Plan) -> list[tuple[Stage, int]]:
    return [(run.id.stage, run.id.attempt) for run in made.start]


def finished_job() -> FineTuneJob:
    job, _ = pass_(a_job(), *[succeeded(stage) for stage in STAGES])
    return job


class TestFirstPass:
    def test_starts_prepare_of_revision_1(self) -> None:
        job, made = pass_(a_job())
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE)]
        assert made.stop == ()
        assert (job.status.revision, job.status.phase) == (1, Phase.PREPARING)
        assert job.status.start_time == "2026-03-01T12:00:00Z"

    def test_tells_the_stage_who_it_belongs_to(self) -> None:
        _, made = pass_(a_job())
        config = made.start[0].config(workspace="/tmp/w", port=1234)
        assert (config.job.namespace, config.job.name, config.job.uid) == ("team-a", "intents", "uid-1")
        assert (config.stage, config.attempt, config.workspace) == (Stage.PREPARE, 1, "/tmp/w")
        assert config.layout.prepared == "s3://adapters/team-a/intents/r1/prepared"
        assert config.job.spec_digest == made.status.spec_digest

    def test_starts_nothing_while_somebody_wants_the_job_to_hold(self) -> None:
        job, made = pass_(a_job(), stop=True)
        assert (made.start, made.look_again) == ((), None)
        assert job.status.phase is Phase.SUSPENDED


class TestStagesFollowEachOther:
    def test_each_after_the_one_before_has_succeeded(self) -> None:
        job = a_job()
        runs: list[ObservedRun] = []
        order = []
        for _ in STAGES:
            job, made = pass_(job, *runs)
            order += started(made)
            runs.append(succeeded(made.start[0].id.stage))
        job, made = pass_(job, *runs)
        assert order == [(stage, 1) for stage in STAGES]
        assert (made.start, made.look_again) == ((), None)
        assert job.status.phase is Phase.SUCCEEDED

    def test_train_runs_on_what_the_spec_asks_for_and_the_rest_in_one_process(self) -> None:
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

    def test_a_job_without_gpus_runs_on_cpus(self) -> None:
        job, _ = pass_(a_job(distributed={"workers": 2, "gpusPerWorker": 0}))
        _, made = pass_(job, succeeded(Stage.PREPARE))
        assert (made.start[0].world.size, made.start[0].world.device) == (2, Device.CPU)

    def test_a_stage_is_not_started_twice_while_it_is_not_seen_yet(self) -> None:
        job, _ = pass_(a_job())
        again, made = pass_(job, at=5)
        assert made.start == ()
        assert again.status == job.status
        assert made.look_again == timedelta(seconds=25)

    def test_the_result_is_in_the_status_at_the_end(self) -> None:
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
            "accuracy 0.8400, linear probe 0.7900 (+0.0500), on 621 test examples",
            "1.4 MB at s3://adapters/team-a/intents/r1/artifact",
        ]


class TestProgress:
    def test_is_in_the_status(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        said = a_progress(
            eta_seconds=200.4, loss=0.51239, tokens_per_second=1234.56, checkpoint=a_checkpoint(30), updated_at=NOON
        )
        job, made = pass_(job, succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=said))
        progress = made.status.progress
        assert progress is not None
        assert (progress.text, progress.percent, progress.eta) == ("train 40/120", 33, "3m20s")
        assert (progress.loss, progress.tokens_per_second) == (0.5124, 1234.6)
        assert made.status.checkpoint == a_checkpoint(30)
        assert stage_status(job.status, Stage.TRAIN).state is StageState.RUNNING
        assert condition(job.status, ConditionType.TRAINED).message == "Training."

    def test_of_a_part_of_a_run_does_not_hide_what_keeps_the_rest(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        trouble = Trouble(Reason.UNSCHEDULABLE, "No node takes worker 1.", NOON)
        said = a_progress(checkpoint=a_checkpoint(30))
        job, _ = pass_(job, a_run(Stage.TRAIN, RunState.PENDING, trouble=trouble, progress=said))
        assert job.status.progress is not None
        assert job.status.progress.text == "train: waiting: Unschedulable"
        assert condition(job.status, ConditionType.TRAINED).message == trouble.message
        assert job.status.checkpoint == a_checkpoint(30)

    def test_of_another_attempt_is_not_believed(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        _, made = pass_(job, succeeded(Stage.PREPARE), a_run(Stage.TRAIN, progress=a_progress(attempt=7)))
        assert made.status.progress is not None
        assert made.status.progress.text == "train: starting"

    def test_a_later_checkpoint_is_not_replaced_by_an_earlier_one(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        job, _ = pass_(job, a_run(Stage.TRAIN, progress=a_progress(checkpoint=a_checkpoint(60))))
        job, _ = pass_(job, a_run(Stage.TRAIN, progress=a_progress(checkpoint=a_checkpoint(30))))
        assert job.status.checkpoint == a_checkpoint(60)


class TestAfterACrash:
    def test_a_run_that_was_started_and_never_recorded_is_adopted(self) -> None:
        job, made = pass_(a_job(), a_run(Stage.PREPARE))
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).attempt == 1

    def test_every_stage_that_ended_meanwhile_is_caught_up_with(self) -> None:
        _, made = pass_(a_job(), succeeded(Stage.PREPARE), killed(Stage.TRAIN), succeeded(Stage.TRAIN, attempt=2))
        assert started(made) == [(Stage.EVALUATE, 1)]
        assert stage_status(made.status, Stage.TRAIN).restarts == 1

    def test_a_stage_that_succeeded_is_not_started_again_when_its_run_is_gone(self) -> None:
        job, _ = pass_(a_job(), succeeded(Stage.PREPARE))
        job, made = pass_(job, a_run(Stage.TRAIN))
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).state is StageState.SUCCEEDED

    def test_a_run_that_vanished_is_lost_and_follows_another(self) -> None:
        job, _ = pass_(a_job())
        job, _ = pass_(job, a_run(Stage.PREPARE))
        job, made = pass_(job, at=20)
        assert made.start == ()
        assert job.status.failure is not None
        assert "disappeared" in job.status.failure.message
        _, made = pass_(job, at=22)
        assert started(made) == [(Stage.PREPARE, 2)]

    def test_a_run_that_never_appeared_is_lost_after_half_a_minute(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, at=31)
        assert made.start == ()
        _, made = pass_(job, at=33)
        assert started(made) == [(Stage.PREPARE, 2)]

    def test_of_two_live_attempts_the_older_is_stopped(self) -> None:
        job, made = pass_(a_job(), a_run(Stage.PREPARE, attempt=1), a_run(Stage.PREPARE, attempt=2))
        assert [run.id for run in made.stop] == [run_id(Stage.PREPARE, 1)]
        assert made.start == ()
        assert stage_status(job.status, Stage.PREPARE).attempt == 2


class TestTerminalIsTerminal:
    def test_nothing_starts_again_when_the_runs_are_gone(self) -> None:
        job = finished_job()
        again, made = pass_(job, at=1e6)
        assert (made.start, made.stop, made.look_again) == ((), (), None)
        assert again.status == job.status

    def test_what_still_runs_is_stopped(self) -> None:
        _, made = pass_(finished_job(), a_run(Stage.TRAIN, attempt=9))
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN, 9)]
        assert made.status.phase is Phase.SUCCEEDED

    def test_a_change_that_does_not_decide_the_result_is_only_noted(self) -> None:
        job = finished_job()
        changed = a_job(job.status, generation=2, resilience={"maxRestarts": 9})
        _, made = pass_(changed)
        assert made.start == ()
        assert made.status.observed_generation == 2
        assert {entry.observed_generation for entry in made.status.conditions} == {2}


class TestStopAndResume:
    def test_a_stop_ends_what_runs_with_time_for_a_checkpoint(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, a_run(Stage.PREPARE), stop=True)
        assert [(run.id, run.grace) for run in made.stop] == [(run_id(Stage.PREPARE), timedelta(minutes=5))]
        assert job.status.phase is Phase.SUSPENDING

    def test_stopped_is_said_only_when_nothing_runs_any_more(self) -> None:
        job, _ = pass_(a_job())
        stopped = a_run(Stage.PREPARE, RunState.STOPPED, exit_code=75, finished_at=NOON)
        job, made = pass_(job, stopped, stop=True)
        assert job.status.phase is Phase.SUSPENDED
        assert job.status.failure is None
        assert made.look_again is None

    def test_it_goes_on_at_once_with_the_next_attempt(self) -> None:
        job, _ = pass_(a_job())
        stopped = a_run(Stage.PREPARE, RunState.STOPPED, exit_code=75, finished_at=NOON)
        job, _ = pass_(job, stopped, stop=True)
        job, made = pass_(job, stopped, at=1)
        assert started(made) == [(Stage.PREPARE, 2)]
        assert job.status.phase is Phase.PREPARING
        assert stage_status(job.status, Stage.PREPARE).restarts == 0

    def test_a_stage_that_finished_while_it_was_being_stopped_has_succeeded(self) -> None:
        job, _ = pass_(a_job())
        job, _ = pass_(job, succeeded(Stage.PREPARE), stop=True)
        assert stage_status(job.status, Stage.PREPARE).state is StageState.SUCCEEDED
        assert job.status.phase is Phase.SUSPENDED


def test_a_status_survives_being_stored() -> None:
    status = finished_job().status
    stored = status.model_dump_json(exclude_none=True)
    assert FineTuneJobStatus.model_validate_json(stored) == status
