"""The plan when a stage stalls or cannot be reached."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from finetune_api.failures import Reason
from finetune_api.job import ConditionType
from finetune_api.stage import Stage
from finetune_core.runs import RunState
from tests.builders import (
    a_progress,
    a_run,
    after,
    condition,
    failed,
    run_id,
    stage_status,
    succeeded,
)
from tests.passes import in_training, pass_, started


class TestStall:
    def test_stops_and_retries_the_attempt(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        live = a_run(Stage.TRAIN, progress=a_progress(), silent_since=after(seconds=100))
        job, made = pass_(job, live, at=159)
        assert (made.stop, made.requeue_after) == ((), timedelta(seconds=1))
        job, made = pass_(job, live, at=160)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STALLED, True)
        # It handles SIGTERM and reports a stop, but the recorded reason is the stall.
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.STOPPED), at=170)
        assert job.status.failure is not None
        assert job.status.failure.reason is Reason.STALLED
        assert stage_status(job.status, Stage.TRAIN).restarts == 1

    def test_timeout_counts_from_the_start_without_progress(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN), at=60)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    def test_timeout_counts_from_the_first_poll_without_progress(self) -> None:
        """A restarted operator has no progress yet of runs that are hours old."""
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN, silent_since=None), at=7200)
        assert made.stop == ()
        late = a_run(Stage.TRAIN, silent_since=after(seconds=7200))
        job, made = pass_(job, late, at=7259)
        assert (made.stop, made.requeue_after) == ((), timedelta(seconds=1))
        _, made = pass_(job, late, at=7260)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    @pytest.mark.parametrize("clock", [-3600, 3600])
    def test_does_not_depend_on_the_clock_of_the_worker(self, clock: float) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        progress = a_progress(updated_at=after(seconds=50 + clock))
        live = a_run(Stage.TRAIN, progress=progress, silent_since=after(seconds=50), started_at=after(seconds=clock))
        _, made = pass_(job, live, at=109)
        assert (made.stop, made.requeue_after) == ((), timedelta(seconds=1))
        _, made = pass_(job, live, at=110)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    def test_does_not_apply_to_a_worker_that_is_ready_but_cannot_be_reached(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        silent = a_run(Stage.TRAIN, answers=False, ready=True)
        job, made = pass_(job, silent, at=100)
        assert (made.stop, made.requeue_after) == ((), timedelta(seconds=20))
        job, made = pass_(job, silent, at=1e6)
        assert made.stop == ()
        assert "the operator cannot reach its pod" in stage_status(job.status, Stage.TRAIN).message
        job, made = pass_(job, replace(silent, ready=False), at=1e6)
        assert [run.id for run in made.stop] == [run_id(Stage.TRAIN)]

    def test_message_goes_when_the_next_attempt_makes_a_step(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        job, _ = pass_(job, a_run(Stage.TRAIN), at=60)
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.STOPPED), at=70)
        starting = a_run(Stage.TRAIN, attempt=2, silent_since=after(seconds=80))
        job, _ = pass_(job, starting, at=80)
        assert "a process hangs" in condition(job.status, ConditionType.READY).message
        job, _ = pass_(job, replace(starting, progress=a_progress(attempt=2, done=1, total=20)), at=90)
        expected = "In stage train, attempt 2; the last one ended as Stalled."
        assert condition(job.status, ConditionType.READY).message == expected

    def test_does_not_apply_to_a_pending_run(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        _, made = pass_(job, a_run(Stage.TRAIN, RunState.PENDING, started_at=None), at=1e6)
        assert made.stop == ()
        assert made.requeue_after is not None

    def test_of_a_run_on_a_lost_node_is_a_disruption(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60, "maxRestarts": 0})
        job, _ = pass_(job, a_run(Stage.TRAIN), at=61)
        job, _ = pass_(job, failed(Stage.TRAIN, Reason.STOPPED, disrupted=True), at=170)
        assert job.status.failure is not None
        assert (job.status.failure.reason, job.status.failure.retried) == (Reason.STOPPED, True)
        assert stage_status(job.status, Stage.TRAIN).restarts == 0

    def test_success_before_the_stop_is_a_success(self) -> None:
        job = in_training(resilience={"stallTimeoutSeconds": 60})
        job, _ = pass_(job, a_run(Stage.TRAIN), at=61)
        job, made = pass_(job, succeeded(Stage.TRAIN), at=62)
        assert started(made) == [(Stage.EVALUATE, 1)]
        assert job.status.failure is None
