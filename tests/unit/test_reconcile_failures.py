"""What the plan does when something goes wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import ExitCode, Fault, Reason
from finetune_api.job import ConditionType, FineTuneJob, Phase, StageState
from finetune_api.spec import Metric
from finetune_api.stage import STAGES, Stage, StageError, StageReport
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, Plan, RunState
from tests.builders import (
    NOON,
    a_job,
    a_progress,
    a_run,
    after,
    an_evaluation,
    condition,
    failed,
    killed,
    run_id,
    stage_status,
    succeeded,
)


def pass_(job: FineTuneJob, *runs: ObservedRun, stop: bool = False, at: float = 10) -> tuple[FineTuneJob, Plan]:
    made = plan(job, Observed(runs, stop_requested=stop), after(seconds=at))
    return job.model_copy(update={"status": made.status}), made


def in_training(**spec: Any) -> FineTuneJob:
    """A job whose train stage runs since noon."""
    job, _ = pass_(a_job(**spec), succeeded(Stage.PREPARE), at=0)
    job, _ = pass_(job, a_run(Stage.TRAIN), at=0)
    return job


def started(made: Plan) -> list[tuple[Stage, int]]:
    return [(run.id.stage, run.id.attempt) for run in made.start]


class TestAFailureThatMayPass:
    @pytest.mark.parametrize("reason", [Reason.INTERNAL_ERROR, Reason.KILLED])
    def test_is_tried_again_and_counted(self, reason: Reason) -> None:
        run = failed(Stage.TRAIN, reason)
        job, made = pass_(in_training(), run)
        assert (made.start, made.look_again) == ((), timedelta(seconds=2))
        assert stage_status(job.status, Stage.TRAIN).restarts == 1
        assert job.status.failure is not None
        assert job.status.failure.retried
        job, made = pass_(job, run, at=12)
        assert started(made) == [(Stage.TRAIN, 2)]

    @pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.STOPPED])
    def test_of_what_lies_around_the_job_is_not_counted(self, reason: Reason) -> None:
        job = in_training(resilience={"maxRestarts": 0})
        job, first = pass_(job, failed(Stage.TRAIN, reason))
        job, second = pass_(job, failed(Stage.TRAIN, reason), at=12)
        assert started(first) + started(second) == [(Stage.TRAIN, 2)]
        assert stage_status(job.status, Stage.TRAIN).restarts == 0

    def test_a_disruption_is_not_counted(self) -> None:
        job, _ = pass_(in_training(resilience={"maxRestarts": 0}), killed(Stage.TRAIN, disrupted=True))
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STOPPED, True)

    def test_maxrestarts_used_up_ends_the_job(self) -> None:
        job = in_training(resilience={"maxRestarts": 1})
        job, _ = pass_(job, killed(Stage.TRAIN))
        job, made = pass_(job, killed(Stage.TRAIN, attempt=2), at=20)
        assert made.start == ()
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert job.status.failure.message.endswith(". Given up after 1 restart (resilience.maxRestarts).")
        assert not job.status.failure.retried

    def test_giving_up_is_a_sentence_of_its_own(self) -> None:
        error = StageError(reason=Reason.GPU_UNAVAILABLE, message="no GPU", exit_code=ExitCode.UNAVAILABLE)
        report = StageReport(stage=Stage.TRAIN, attempt=1, seconds=1.0, error=error)
        run = failed(Stage.TRAIN, Reason.GPU_UNAVAILABLE, report=report)
        job, _ = pass_(in_training(resilience={"maxRestarts": 0}), run)
        assert job.status.failure is not None
        assert job.status.failure.message == "no GPU. Given up after 0 restarts (resilience.maxRestarts)."

    def test_waits_longer_each_time(self) -> None:
        job = in_training(resilience={"maxRestarts": 10})
        waits = []
        for attempt in range(1, 5):
            job, made = pass_(job, killed(Stage.TRAIN, attempt=attempt))
            waits.append(made.look_again)
        assert waits == [timedelta(seconds=seconds) for seconds in (2, 4, 8, 16)]

    def test_is_counted_once_however_often_it_is_seen(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        for _ in range(5):
            job, _ = pass_(job, killed(Stage.TRAIN))
        assert stage_status(job.status, Stage.TRAIN).restarts == 1

    def test_is_forgotten_when_the_stage_succeeds(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        job, _ = pass_(job, killed(Stage.TRAIN), succeeded(Stage.TRAIN, attempt=2), at=20)
        assert job.status.failure is None

    def test_the_operator_being_away_does_not_lengthen_the_wait(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        _, made = pass_(job, at=3600)
        assert started(made) == [(Stage.TRAIN, 2)]


class TestAFailureThatNeedsAPerson:
    @pytest.mark.parametrize(
        "reason",
        [
            Reason.BAD_CONFIGURATION,
            Reason.BAD_DATA,
            Reason.NOT_FOUND,
            Reason.DIVERGED,
            Reason.PERMISSION_DENIED,
            Reason.OUT_OF_MEMORY,
            Reason.DISK_FULL,
        ],
    )
    def test_ends_the_job_at_once(self, reason: Reason) -> None:
        job, made = pass_(in_training(), failed(Stage.TRAIN, reason))
        assert (made.start, made.look_again) == ((), None)
        assert job.status.phase is Phase.FAILED
        assert stage_status(job.status, Stage.TRAIN).state is StageState.FAILED
        failure = job.status.failure
        assert failure is not None
        assert (failure.reason, failure.stage, failure.retried) == (reason, Stage.TRAIN, False)

    def test_says_whose_fault_it_is(self) -> None:
        faults = {}
        for reason in (Reason.BAD_DATA, Reason.DISK_FULL, Reason.INTERNAL_ERROR):
            job, _ = pass_(in_training(resilience={"maxRestarts": 0}), failed(Stage.TRAIN, reason))
            assert job.status.failure is not None
            faults[reason] = job.status.failure.fault
        assert faults == {
            Reason.BAD_DATA: Fault.USER,
            Reason.DISK_FULL: Fault.CLUSTER,
            Reason.INTERNAL_ERROR: Fault.OPERATOR,
        }

    def test_is_said_only_when_nothing_runs_any_more(self) -> None:
        job, made = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA), a_run(Stage.PREPARE, attempt=2))
        assert [run.id for run in made.stop] == [run_id(Stage.PREPARE, 2)]
        assert job.status.completion_time is None
        assert condition(job.status, ConditionType.STALLED).status == "False"
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.BAD_DATA))
        assert job.status.phase is Phase.FAILED

    def test_a_preempted_pod_with_bad_data_has_bad_data(self) -> None:
        job, _ = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA, disrupted=True))
        assert job.status.phase is Phase.FAILED


class TestAStall:
    def test_ends_the_attempt_and_tries_again(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        live = a_run(Stage.TRAIN, progress=a_progress(updated_at=after(seconds=100)))
        job, made = pass_(job, live, at=159)
        assert (made.stop, made.look_again) == ((), timedelta(seconds=1))
        job, made = pass_(job, live, at=160)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STALLED, True)
        # It answers the stop like any other, but it was a stall.
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.STOPPED), at=170)
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.STALLED
        assert stage_status(job.status, Stage.TRAIN).restarts == 1

    def test_counts_from_the_start_while_nothing_was_said(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN), at=60)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    def test_counts_from_when_somebody_listened_while_nothing_was_said(self) -> None:
        """An operator that was started anew has heard nothing yet of trainings that run for hours."""
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN, asked_since=None), at=7200)
        assert made.stop == ()
        late = a_run(Stage.TRAIN, asked_since=after(seconds=7200))
        job, made = pass_(job, late, at=7259)
        assert (made.stop, made.look_again) == ((), timedelta(seconds=1))
        _, made = pass_(job, late, at=7260)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    def test_is_not_seen_in_a_pod_that_waits_for_a_node(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN, RunState.PENDING, started_at=None), at=1e6)
        assert made.stop == ()
        assert made.look_again is not None

    def test_of_what_was_on_a_node_that_went_is_none(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60, "maxRestarts": 0})
        job, _ = pass_(job, a_run(Stage.TRAIN), at=61)
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.STOPPED, disrupted=True), at=170)
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STOPPED, True)
        assert stage_status(job.status, Stage.TRAIN).restarts == 0

    def test_success_at_the_last_moment_is_success(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        job, _ = pass_(job, a_run(Stage.TRAIN), at=61)
        job, made = pass_(job, succeeded(Stage.TRAIN), at=62)
        assert started(made) == [(Stage.EVALUATE, 1)]
        assert job.status.failure is None


class TestTheDeadline:
    def test_ends_what_runs_and_then_the_job(self) -> None:
        job = in_training(resilience={"activeDeadlineSeconds": 100})
        job, made = pass_(job, a_run(Stage.TRAIN), at=99)
        assert made.look_again == timedelta(seconds=1)
        job, made = pass_(job, a_run(Stage.TRAIN), at=100)
        assert [(run.id, run.grace) for run in made.stop] == [(run_id(Stage.TRAIN), timedelta(minutes=2))]
        assert job.status.completion_time is None
        job, made = pass_(job, failed(Stage.TRAIN, Reason.STOPPED), at=105)
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.DEADLINE_EXCEEDED
        assert made.start == ()

    def test_holds_while_a_retry_is_waited_for(self) -> None:
        job = in_training(resilience={"activeDeadlineSeconds": 11})
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=10)
        job, made = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=11)
        assert (made.start, job.status.phase) == ((), Phase.FAILED)

    def test_does_not_count_the_time_in_which_the_job_held_on_request(self) -> None:
        job = in_training(resilience={"activeDeadlineSeconds": 100})
        stopped = failed(Stage.TRAIN, Reason.STOPPED)
        job, _ = pass_(job, stopped, stop=True, at=20)
        job, made = pass_(job, stopped, at=5000)
        assert started(made) == [(Stage.TRAIN, 2)]
        again = a_run(Stage.TRAIN, attempt=2, started_at=after(seconds=5000))
        job, made = pass_(job, stopped, again, at=5099)
        assert made.stop == ()
        _, made = pass_(job, stopped, again, at=5100)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN, 2)]

    def test_counts_from_the_start_when_the_job_never_held(self) -> None:
        """Asked to hold, and told to go on before anything had stopped."""
        job = in_training(resilience={"activeDeadlineSeconds": 100})
        job, _ = pass_(job, a_run(Stage.TRAIN), stop=True, at=50)
        _, made = pass_(job, a_run(Stage.TRAIN), at=100)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]


class TestGates:
    REFUSED = GateResult(metric=Metric.MACRO_F1, minimum=0.9, value=0.84, passed=False)
    HELD = GateResult(metric=Metric.ACCURACY, minimum_improvement=0.02, value=0.05, passed=True)

    def judged(self, *results: GateResult) -> tuple[FineTuneJob, Plan]:
        job = a_job(
            evaluation={
                "gates": [{"metric": "macro_f1", "minimum": 0.9}, {"metric": "accuracy", "minimumImprovement": 0.02}]
            }
        )
        evaluated = succeeded(Stage.EVALUATE, evaluation=an_evaluation(*results))
        return pass_(job, succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), evaluated)

    def test_a_result_below_a_gate_is_not_published(self) -> None:
        job, made = self.judged(self.REFUSED, self.HELD)
        assert (made.start, made.look_again) == ((), None)
        assert job.status.phase is Phase.REJECTED
        assert job.status.artifact is None
        assert job.status.failure is not None
        assert job.status.failure.message == "macro_f1 is 0.84, 0.06 below the minimum 0.9."
        assert (job.status.failure.reason, job.status.failure.fault) == (Reason.GATE_FAILED, Fault.USER)
        assert condition(job.status, ConditionType.EVALUATED).status == "True"
        assert condition(job.status, ConditionType.PUBLISHED).reason == "GateFailed"

    def test_a_gate_that_was_not_measured_does_not_hold(self) -> None:
        job, _ = self.judged(self.HELD)
        assert job.status.failure is not None
        assert job.status.failure.message == "the gate on macro_f1 was not measured."

    def test_a_result_that_passes_is_published(self) -> None:
        held = self.REFUSED.model_copy(update={"value": 0.91, "passed": True})
        _, made = self.judged(held, self.HELD)
        assert started(made) == [(Stage.PUBLISH, 1)]

    def test_a_refusal_is_final(self) -> None:
        job, _ = self.judged(self.REFUSED, self.HELD)
        again, made = pass_(job, at=1e6)
        assert (made.start, again.status) == ((), job.status)


class TestAChangedSpec:
    CHANGE: dict[str, Any] = {"training": {"learningRate": 1e-3}}  # noqa: RUF012

    def test_stops_the_running_attempt_before_the_next_revision_starts(self) -> None:
        changed = a_job(in_training().status, generation=2, **self.CHANGE)
        job, made = pass_(changed, a_run(Stage.TRAIN))
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        assert made.start == ()
        assert (job.status.revision, job.status.observed_generation) == (2, 2)
        job, made = pass_(job, failed(Stage.TRAIN, Reason.STOPPED))
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE, 1, revision=2)]

    def test_moves_the_old_result_to_history(self) -> None:
        done, _ = pass_(a_job(), *[succeeded(stage) for stage in STAGES])
        job, made = pass_(a_job(done.status, generation=2, **self.CHANGE), *[succeeded(stage) for stage in STAGES])
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE, 1, revision=2)]
        (record,) = job.status.history
        assert (record.revision, record.phase, record.score) == (1, Phase.SUCCEEDED, "0.8400")
        assert record.artifact == done.status.artifact
        assert (job.status.artifact, job.status.evaluation, job.status.completion_time) == (None, None, None)

    def test_starts_a_failed_job_anew(self) -> None:
        dead, _ = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA))
        job, made = pass_(a_job(dead.status, generation=2, **self.CHANGE))
        assert started(made) == [(Stage.PREPARE, 1)]
        assert job.status.failure is None
        assert job.status.history[0].phase is Phase.FAILED

    @pytest.mark.parametrize("change", [{"resilience": {"maxRestarts": 9}}, {"distributed": {"workers": 2}}])
    def test_that_only_decides_how_it_runs_starts_no_revision(self, change: dict[str, Any]) -> None:
        job, made = pass_(a_job(in_training().status, generation=2, **change), a_run(Stage.TRAIN))
        assert (made.stop, job.status.revision) == ((), 1)

    def test_writing_a_default_down_starts_no_revision(self) -> None:
        job, _ = pass_(a_job(in_training().status, training={"batchSize": 32}), a_run(Stage.TRAIN))
        assert job.status.revision == 1


def test_a_run_that_says_nothing_did_not_succeed() -> None:
    job, _ = pass_(in_training(), a_run(Stage.TRAIN, RunState.SUCCEEDED, exit_code=0, finished_at=NOON))
    assert job.status.failure is not None
    assert job.status.failure.reason is Reason.INTERNAL_ERROR


class TestAPlaceInStorageThatIsAnothers:
    """A job that was deleted and applied again, with another spec, finds its first revision's directory taken."""

    def test_is_left_to_it_and_the_next_one_is_taken(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, failed(Stage.PREPARE, Reason.REVISION_TAKEN))
        assert job.status.revision == 2
        assert started(made) == [(Stage.PREPARE, 1)]
        assert made.start[0].id.revision == 2
        assert (job.status.failure, job.status.history) == (None, ())
        assert job.status.phase is Phase.PREPARING

    def test_as_often_as_it_takes(self) -> None:
        job, _ = pass_(a_job())
        old = [failed(Stage.PREPARE, Reason.REVISION_TAKEN, revision=number) for number in (1, 2, 3)]
        for number in (1, 2, 3):
            job, _ = pass_(job, *old[:number])
        assert job.status.revision == 4

    def test_is_nothing_to_a_job_that_has_ended(self) -> None:
        job, _ = pass_(a_job(), failed(Stage.PREPARE, Reason.BAD_DATA))
        before = job.status
        job, made = pass_(job, failed(Stage.PREPARE, Reason.BAD_DATA))
        assert (job.status, made.start) == (before, ())
