"""The plan after failures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import ExitCode, Fault, Reason
from finetune_api.job import ConditionType, FineTuneJob, Phase, StageState
from finetune_api.spec import Metric
from finetune_api.stage import Stage, StageError, StageReport
from finetune_core.runs import ObservedRun, Plan, RunState
from finetune_core.times import to_text
from tests.builders import (
    NOON,
    a_job,
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
from tests.passes import in_training, pass_, started
from tests.usual_stages import STAGES


class TestRetriableFailure:
    @pytest.mark.parametrize("reason", [Reason.INTERNAL_ERROR, Reason.KILLED])
    def test_is_retried_and_counted(self, reason: Reason) -> None:
        run = failed(Stage.TRAIN, reason)
        job, made = pass_(in_training(), run)
        assert (made.start, made.requeue_after) == ((), timedelta(seconds=2))
        assert stage_status(job.status, Stage.TRAIN).restarts == 1
        assert job.status.failure is not None
        assert job.status.failure.retried
        job, made = pass_(job, run, at=12)
        assert started(made) == [(Stage.TRAIN, 2)]

    @pytest.mark.parametrize("reason", [Reason.UNAVAILABLE, Reason.STOPPED])
    def test_of_the_environment_is_not_counted(self, reason: Reason) -> None:
        job = in_training(resilience={"maxRestarts": 0})
        job, first = pass_(job, failed(Stage.TRAIN, reason))
        job, second = pass_(job, failed(Stage.TRAIN, reason), at=12)
        assert started(first) + started(second) == [(Stage.TRAIN, 2)]
        assert stage_status(job.status, Stage.TRAIN).restarts == 0

    def test_disruption_is_not_counted(self) -> None:
        job, _ = pass_(in_training(resilience={"maxRestarts": 0}), killed(Stage.TRAIN, disrupted=True))
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STOPPED, True)

    def test_job_fails_when_restarts_are_used_up(self) -> None:
        job = in_training(resilience={"maxRestarts": 1})
        job, _ = pass_(job, killed(Stage.TRAIN))
        job, made = pass_(job, killed(Stage.TRAIN, attempt=2), at=20)
        assert made.start == ()
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert job.status.failure.message.endswith(". Not retried after 1 restart (resilience.maxRestarts).")
        assert not job.status.failure.retried

    def test_exhausted_restarts_are_a_separate_sentence(self) -> None:
        error = StageError(reason=Reason.GPU_UNAVAILABLE, message="no GPU", exit_code=ExitCode.UNAVAILABLE)
        report = StageReport(stage=Stage.TRAIN, attempt=1, seconds=1.0, error=error)
        run = failed(Stage.TRAIN, Reason.GPU_UNAVAILABLE, report=report)
        job, _ = pass_(in_training(resilience={"maxRestarts": 0}), run)
        assert job.status.failure is not None
        assert job.status.failure.message == "no GPU. Not retried after 0 restarts (resilience.maxRestarts)."

    def test_back_off_grows(self) -> None:
        job = in_training(resilience={"maxRestarts": 10})
        waits = []
        for attempt in range(1, 5):
            job, made = pass_(job, killed(Stage.TRAIN, attempt=attempt))
            waits.append(made.requeue_after)
        assert waits == [timedelta(seconds=seconds) for seconds in (2, 4, 8, 16)]

    def test_is_counted_once_if_observed_repeatedly(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        for _ in range(5):
            job, _ = pass_(job, killed(Stage.TRAIN))
        assert stage_status(job.status, Stage.TRAIN).restarts == 1

    def test_is_cleared_when_the_stage_succeeds(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        job, _ = pass_(job, killed(Stage.TRAIN), succeeded(Stage.TRAIN, attempt=2), at=20)
        assert job.status.failure is None

    def test_operator_downtime_counts_as_back_off(self) -> None:
        job, _ = pass_(in_training(), killed(Stage.TRAIN))
        _, made = pass_(job, at=3600)
        assert started(made) == [(Stage.TRAIN, 2)]


class TestAskedWait:
    """An endpoint that asks with Retry-After for no request within an hour."""

    @staticmethod
    def limited(attempt: int = 1, seconds: int = 3600, progressed: bool = False, **facts: Any) -> ObservedRun:
        error = StageError(
            reason=Reason.UNAVAILABLE,
            message="No.",
            exit_code=ExitCode.UNAVAILABLE,
            retry_after_seconds=seconds,
            progressed=progressed,
        )
        report = StageReport(stage=Stage.PREPARE, attempt=attempt, seconds=1.0, error=error)
        return failed(Stage.PREPARE, Reason.UNAVAILABLE, attempt, report=report, **facts)

    def test_delays_the_next_attempt(self) -> None:
        job, made = pass_(a_job(), self.limited())
        assert (made.start, made.requeue_after) == ((), timedelta(hours=1))
        assert stage_status(job.status, Stage.PREPARE).retry_time == to_text(after(seconds=3610))
        message = "No. It is not asked again before 2026-03-01T13:00:10Z."
        assert condition(job.status, ConditionType.READY).message == f"Stage prepare is retried: {message}"
        early, made = pass_(job, self.limited(), at=3609)
        assert made.start == ()
        _, made = pass_(early, self.limited(), at=3610)
        assert started(made) == [(Stage.PREPARE, 2)]

    def test_shorter_than_the_back_off_changes_nothing(self) -> None:
        _, made = pass_(a_job(), self.limited(seconds=1))
        assert made.requeue_after == timedelta(seconds=2)

    def test_starts_when_the_error_is_seen_first(self) -> None:
        """A sidecar keeps the pod alive for a minute."""
        job, _ = pass_(a_job(), replace(self.limited(), state=RunState.RUNNING, failing=True), at=10)
        job, made = pass_(job, self.limited(), at=70)
        assert made.requeue_after == timedelta(minutes=59)

    @pytest.mark.parametrize(("progressed", "retried"), [(True, True), (False, False)])
    def test_of_an_endpoint_that_answers_in_between_is_no_outage(self, progressed: bool, retried: bool) -> None:
        """It allows some requests an hour, for longer than a service may be silent."""
        job = a_job(resilience={"pendingTimeoutSeconds": 2 * 3600})
        runs: list[ObservedRun] = []
        for attempt, hour in enumerate((0, 1, 2), 1):
            runs.append(self.limited(attempt, progressed=progressed))
            job, _ = pass_(job, *runs, at=3600 * hour + 10)
        assert job.status.failure is not None
        assert job.status.failure.retried is retried

    def test_beyond_the_pending_timeout_fails_the_job(self) -> None:
        job, made = pass_(a_job(resilience={"pendingTimeoutSeconds": 600}), self.limited())
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.failure is not None
        assert job.status.failure.message == (
            "No. It is not asked again before 2026-03-01T13:00:10Z. That is later than "
            "resilience.pendingTimeoutSeconds allows."
        )


class TestFinalFailure:
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
    def test_fails_the_job_at_once(self, reason: Reason) -> None:
        job, made = pass_(in_training(), failed(Stage.TRAIN, reason))
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.phase is Phase.FAILED
        assert stage_status(job.status, Stage.TRAIN).state is StageState.FAILED
        failure = job.status.failure
        assert failure is not None
        assert (failure.reason, failure.stage, failure.retried) == (reason, Stage.TRAIN, False)

    def test_names_the_fault(self) -> None:
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

    def test_is_reported_only_after_all_runs_have_ended(self) -> None:
        job, made = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA), a_run(Stage.PREPARE, attempt=2))
        assert [run.id for run in made.stop] == [run_id(Stage.PREPARE, 2)]
        assert job.status.completion_time is None
        assert condition(job.status, ConditionType.STALLED).status == "False"
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.BAD_DATA))
        assert job.status.phase is Phase.FAILED

    def test_bad_data_counts_despite_a_preemption(self) -> None:
        job, _ = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA, disrupted=True))
        assert job.status.phase is Phase.FAILED


class TestFailingGang:
    def test_is_stopped_with_the_reason_of_the_failed_worker(self) -> None:
        """A sidecar keeps the pod of the failed worker alive, so the Job controller does not stop the others."""
        job = in_training(distributed={"workers": 2})
        end = failed(Stage.TRAIN, Reason.DIVERGED)
        job, made = pass_(job, replace(end, state=RunState.RUNNING, failing=True))
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        job, _ = pass_(job, replace(end, state=RunState.STOPPED, report=None, exit_code=143), at=20)
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.DIVERGED


class TestDeadline:
    def test_stops_the_run_and_then_fails_the_job(self) -> None:
        job = in_training(resilience={"activeDeadlineSeconds": 100})
        job, made = pass_(job, a_run(Stage.TRAIN), at=99)
        assert made.requeue_after == timedelta(seconds=1)
        job, made = pass_(job, a_run(Stage.TRAIN), at=100)
        assert [(run.id, run.grace) for run in made.stop] == [(run_id(Stage.TRAIN), timedelta(minutes=2))]
        assert job.status.completion_time is None
        job, made = pass_(job, failed(Stage.TRAIN, Reason.STOPPED), at=105)
        assert job.status.phase is Phase.FAILED
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.DEADLINE_EXCEEDED
        assert made.start == ()

    def test_applies_during_back_off(self) -> None:
        job = in_training(resilience={"activeDeadlineSeconds": 11})
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=10)
        job, made = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=11)
        assert (made.start, job.status.phase) == ((), Phase.FAILED)

    def test_does_not_count_suspended_time(self) -> None:
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

    def test_counts_from_the_start_of_a_job_that_was_never_suspended(self) -> None:
        """Suspended and resumed before the run had stopped."""
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

    def test_result_below_a_gate_is_not_published(self) -> None:
        job, made = self.judged(self.REFUSED, self.HELD)
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.phase is Phase.REJECTED
        assert job.status.artifact is None
        assert job.status.failure is not None
        assert job.status.failure.message == "macro_f1 is 0.84, 0.06 below the minimum 0.9."
        assert (job.status.failure.reason, job.status.failure.fault) == (Reason.GATE_FAILED, Fault.USER)
        assert condition(job.status, ConditionType.EVALUATED).status == "True"
        assert condition(job.status, ConditionType.PUBLISHED).reason == "GateFailed"

    def test_gate_without_a_measurement_fails(self) -> None:
        job, _ = self.judged(self.HELD)
        assert job.status.failure is not None
        assert job.status.failure.message == "the gate on macro_f1 was not measured."

    def test_result_that_passes_is_published(self) -> None:
        held = self.REFUSED.model_copy(update={"value": 0.91, "passed": True})
        _, made = self.judged(held, self.HELD)
        assert started(made) == [(Stage.PUBLISH, 1)]

    def test_rejection_is_final(self) -> None:
        job, _ = self.judged(self.REFUSED, self.HELD)
        again, made = pass_(job, at=1e6)
        assert (made.start, again.status) == ((), job.status)


class TestChangedSpec:
    CHANGE: dict[str, Any] = {"training": {"learningRate": 1e-3}}  # noqa: RUF012

    def test_stops_the_running_attempt_before_the_next_revision_starts(self) -> None:
        changed = a_job(in_training().status, generation=2, **self.CHANGE)
        job, made = pass_(changed, a_run(Stage.TRAIN))
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        assert made.start == ()
        assert (job.status.revision, job.status.observed_generation) == (2, 2)
        job, made = pass_(job, failed(Stage.TRAIN, Reason.STOPPED))
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE, 1, revision=2)]

    def test_moves_the_old_result_to_the_history(self) -> None:
        done, _ = pass_(a_job(), *[succeeded(stage) for stage in STAGES])
        job, made = pass_(a_job(done.status, generation=2, **self.CHANGE), *[succeeded(stage) for stage in STAGES])
        assert [run.id for run in made.start] == [run_id(Stage.PREPARE, 1, revision=2)]
        (record,) = job.status.history
        assert (record.revision, record.phase, record.score) == (1, Phase.SUCCEEDED, "0.8400")
        assert record.artifact == done.status.artifact
        assert (job.status.artifact, job.status.evaluation, job.status.completion_time) == (None, None, None)

    def test_restarts_a_failed_job(self) -> None:
        dead, _ = pass_(in_training(), failed(Stage.TRAIN, Reason.BAD_DATA))
        job, made = pass_(a_job(dead.status, generation=2, **self.CHANGE))
        assert started(made) == [(Stage.PREPARE, 1)]
        assert job.status.failure is None
        assert job.status.history[0].phase is Phase.FAILED

    @pytest.mark.parametrize("change", [{"resilience": {"maxRestarts": 9}}, {"distributed": {"workers": 2}}])
    def test_that_does_not_affect_the_result_starts_no_revision(self, change: dict[str, Any]) -> None:
        job, made = pass_(a_job(in_training().status, generation=2, **change), a_run(Stage.TRAIN))
        assert (made.stop, job.status.revision) == ((), 1)

    def test_adding_a_default_starts_no_revision(self) -> None:
        job, _ = pass_(a_job(in_training().status, training={"batchSize": 32}), a_run(Stage.TRAIN))
        assert job.status.revision == 1


def test_exit_code_0_without_report_is_a_failure() -> None:
    job, _ = pass_(in_training(), a_run(Stage.TRAIN, RunState.SUCCEEDED, exit_code=0, finished_at=NOON))
    assert job.status.failure is not None
    assert job.status.failure.reason is Reason.INTERNAL_ERROR


class TestStorageConflict:
    """A job that was deleted and applied again with another spec finds its first revision's directory in use."""

    def test_continues_as_the_next_revision(self) -> None:
        job, _ = pass_(a_job())
        job, made = pass_(job, failed(Stage.PREPARE, Reason.REVISION_TAKEN))
        assert job.status.revision == 2
        assert started(made) == [(Stage.PREPARE, 1)]
        assert made.start[0].id.revision == 2
        assert (job.status.failure, job.status.history) == (None, ())
        assert job.status.phase is Phase.PREPARING

    def test_continues_as_often_as_there_is_a_conflict(self) -> None:
        job, _ = pass_(a_job())
        old = [failed(Stage.PREPARE, Reason.REVISION_TAKEN, revision=number) for number in (1, 2, 3)]
        for number in (1, 2, 3):
            job, _ = pass_(job, *old[:number])
        assert job.status.revision == 4

    def test_does_not_change_a_finished_job(self) -> None:
        job, _ = pass_(a_job(), failed(Stage.PREPARE, Reason.BAD_DATA))
        before = job.status
        job, made = pass_(job, failed(Stage.PREPARE, Reason.BAD_DATA))
        assert (job.status, made.start) == (before, ())
