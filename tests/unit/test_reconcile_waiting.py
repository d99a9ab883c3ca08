"""The plan while pods do not start, and while a service does not respond."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, Phase
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, PendingCause, Plan, RunState
from tests.builders import a_checkpoint, a_job, a_run, after, condition, failed, run_id, stage_status, succeeded

CROWDED = PendingCause(Reason.UNSCHEDULABLE, "Pod 1 does not fit any node.")


def pass_(job: FineTuneJob, *runs: ObservedRun, at: float = 0) -> tuple[FineTuneJob, Plan]:
    made = plan(job, Observed(runs), after(seconds=at))
    return job.model_copy(update={"status": made.status}), made


def in_training(**spec: Any) -> FineTuneJob:
    job, _ = pass_(a_job(distributed={"workers": 2}, **spec), succeeded(Stage.PREPARE))
    return job


def pending(attempt: int = 1, *, incomplete: bool = True) -> ObservedRun:
    return a_run(Stage.TRAIN, RunState.PENDING, attempt, started_at=None, pending_cause=CROWDED, incomplete=incomplete)


def stopped(attempt: int = 1) -> ObservedRun:
    return replace(a_run(Stage.TRAIN, RunState.STOPPED, attempt, started_at=None), exit_code=143)


class TestIncompleteGang:
    def test_releases_its_nodes_after_five_minutes_and_starts_again_later(self) -> None:
        job, made = pass_(in_training(), pending(), at=10)
        assert made.stop == ()
        job, made = pass_(job, pending(), at=309)
        assert (made.stop, made.requeue_after) == ((), timedelta(seconds=1))
        job, made = pass_(job, pending(), at=310)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        job, made = pass_(job, stopped(), at=320.25)
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.INCOMPLETE_GANG, True)
        assert "released their nodes" in condition(job.status, ConditionType.READY).message
        assert stage_status(job.status, Stage.TRAIN).restarts == 0
        # A minute, and a quarter of four, because the fraction of the second decides.
        assert made.start == ()
        _, made = pass_(job, stopped(), at=320 + 119)
        assert made.start == ()
        _, made = pass_(job, stopped(), at=320 + 121)
        assert [run.id.attempt for run in made.start] == [2]

    def test_that_waits_as_a_whole_waits_on(self) -> None:
        job, _ = pass_(in_training(), pending(), at=10)
        job, _ = pass_(job, pending(incomplete=False), at=300)
        job, made = pass_(job, pending(), at=310)
        assert made.stop == ()

    def test_pending_timeout_covers_all_attempts(self) -> None:
        job, _ = pass_(in_training(resilience={"pendingTimeoutSeconds": 400}), pending(), at=0)
        job, _ = pass_(job, pending(), at=300)
        job, _ = pass_(job, stopped(), at=310)
        job, made = pass_(job, stopped(), at=371)
        assert [run.id.attempt for run in made.start] == [2]
        job, _ = pass_(job, pending(2), at=380)
        job, made = pass_(job, pending(2), at=400)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN, 2)]
        job, _ = pass_(job, stopped(2), at=410)
        assert job.status.failure is not None
        assert (job.status.phase, job.status.failure.reason) == (Phase.FAILED, Reason.UNSCHEDULABLE)

    def test_that_ran_in_between_waits_anew(self) -> None:
        job, _ = pass_(in_training(resilience={"pendingTimeoutSeconds": 400}), pending(), at=0)
        job, _ = pass_(job, a_run(Stage.TRAIN), at=200)
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.KILLED), at=390)
        job, _ = pass_(job, at=392)
        job, made = pass_(job, pending(2), at=401)
        assert made.stop == ()


def test_a_quota_that_can_never_fit_fails_at_once() -> None:
    hopeless = PendingCause(Reason.QUOTA_EXCEEDED, "It can never fit.", hopeless=True)
    run = a_run(Stage.TRAIN, RunState.PENDING, started_at=None, pending_cause=hopeless)
    job, made = pass_(in_training(), run, at=10)
    assert [stop.id for stop in made.stop] == [run_id(Stage.TRAIN)]
    job, _ = pass_(job, stopped(), at=20)
    assert (job.status.phase, job.status.failure and job.status.failure.message) == (Phase.FAILED, "It can never fit.")


class TestUnavailableService:
    def test_ends_the_job_after_the_pending_timeout(self) -> None:
        job = in_training(resilience={"pendingTimeoutSeconds": 60})
        attempt, at = 1, 10.0
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=at)
        while job.status.completion_time is None and at < 1000:
            at += 10
            job, made = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE, attempt), at=at)
            attempt += len(made.start)
        assert (job.status.phase, 70 <= at <= 200) == (Phase.FAILED, True)
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.UNAVAILABLE
        assert "Not reached once within" in job.status.failure.message

    def test_that_has_responded_once_counts_anew(self) -> None:
        job = in_training(resilience={"pendingTimeoutSeconds": 60})
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.UNAVAILABLE), at=10)
        job, _ = pass_(job, at=20)
        second = failed(Stage.TRAIN, Reason.UNAVAILABLE, attempt=2)
        assert second.report
        second = replace(second, report=second.report.model_copy(update={"checkpoint": a_checkpoint(30)}))
        job, _ = pass_(job, second, at=100)
        assert job.status.failure is not None
        assert job.status.failure.retried


@pytest.mark.parametrize("clock", [-3600, 3600])
def test_back_off_does_not_depend_on_the_clock_of_a_node(clock: float) -> None:
    end = failed(Stage.TRAIN, Reason.KILLED, started_at=after(seconds=clock), finished_at=after(seconds=10 + clock))
    job, made = pass_(in_training(), end, at=10)
    assert (made.start, made.requeue_after) == ((), timedelta(seconds=2))
    _, made = pass_(job, end, at=12)
    assert [run.id.attempt for run in made.start] == [2]
