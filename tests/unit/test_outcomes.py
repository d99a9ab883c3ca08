"""Each attempt counts exactly once, with the reason of its end."""

from __future__ import annotations

from datetime import datetime

import pytest

from finetune_api.evaluation import GateResult
from finetune_api.failures import Reason
from finetune_api.job import FineTuneJob, FineTuneJobStatus
from finetune_api.spec import Metric
from finetune_api.stage import Stage
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, RunId, RunState
from finetune_kube.objects import ChildJob
from finetune_operator.metrics import Metrics
from finetune_operator.outcomes import Outcomes
from tests.builders import NOON, a_job, a_run, after, an_evaluation, failed, killed, run_id, succeeded
from tests.kube_objects import a_child, job_of
from tests.usual_stages import STAGES

KEY = ("team-a", "intents")
REFUSED = an_evaluation(GateResult(metric=Metric.ACCURACY, minimum=0.9, value=0.84, passed=False))


class Operator:
    """One process of the operator, with a job whose status it writes."""

    def __init__(self, job: FineTuneJob | None = None) -> None:
        self.metrics = Metrics()
        self.outcomes = Outcomes(self.metrics)
        self.job = job or a_job()

    def reconcile(
        self, *runs: ObservedRun, at: float = 10, stop: bool = False, written: bool = True, answered: bool = True
    ) -> None:
        """One reconcile. Its write of the status may be rejected, or its response may be lost."""
        now = after(seconds=at)
        self.stored(self.job.status, now)
        status = plan(self.job, Observed(runs, stop_requested=stop), now).status
        if written:
            self.job = self.job.model_copy(update={"status": status})
        if written and answered:
            self.stored(status, now)

    def stored(self, status: FineTuneJobStatus, now: datetime, uid: str = "uid-1") -> None:
        child = job_of(a_child(Stage.TRAIN))
        runs: dict[RunId, ChildJob] = {run_id(Stage.TRAIN): child}
        self.outcomes.stored(KEY, uid, status, runs, now)

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of attempts by stage and reason, without zeros."""
        samples = [sample for family in self.metrics.registry.collect() for sample in family.samples]
        return {
            (sample.labels["stage"], sample.labels["reason"]): int(sample.value)
            for sample in samples
            if sample.name == "finetune_stage_outcomes_total" and sample.value
        }

    def waits(self) -> int:
        return int(
            self.metrics.registry.get_sample_value("finetune_stage_waiting_seconds_count", {"stage": "train"}) or 0
        )


def test_every_stage_and_reason_starts_at_zero() -> None:
    """The increase of a counter that appears with the value 1 is 0, so an alert would miss the first failure."""
    registry = Metrics().registry
    for stage in STAGES:
        for reason in ("Succeeded", *Reason):
            labels = {"stage": str(stage), "reason": str(reason)}
            assert registry.get_sample_value("finetune_stage_outcomes_total", labels) == 0


def test_each_stage_of_a_successful_job_counts_once() -> None:
    operator = Operator()
    for count in range(len(STAGES) + 1):
        for _ in range(2):
            operator.reconcile(*[succeeded(stage) for stage in STAGES[:count]])
    assert operator.counts() == {(stage, "Succeeded"): 1 for stage in STAGES}


@pytest.mark.parametrize(
    "lost", [{"written": False}, {"answered": False}], ids=["rejected write", "lost response of a write"]
)
def test_a_repeated_write_counts_once(lost: dict[str, bool]) -> None:
    operator = Operator()
    operator.reconcile()
    for times in range(3):
        operator.reconcile(failed(Stage.PREPARE, Reason.UNAVAILABLE), at=10 + times, **lost)
    operator.reconcile(failed(Stage.PREPARE, Reason.UNAVAILABLE), at=20)
    operator.reconcile(failed(Stage.PREPARE, Reason.UNAVAILABLE), at=21)
    assert operator.counts() == {("prepare", "Unavailable"): 1}


def test_equal_failures_of_several_attempts_count_each() -> None:
    operator = Operator()
    runs: list[ObservedRun] = []
    operator.reconcile()
    for attempt in (1, 2, 3, 4):
        runs.append(failed(Stage.PREPARE, Reason.INTERNAL_ERROR, attempt=attempt))
        operator.reconcile(*runs, at=1000 * attempt)
        operator.reconcile(*runs, at=1000 * attempt + 1)
    assert operator.job.status.completion_time
    assert operator.counts() == {("prepare", "InternalError"): 4}


def test_a_stalled_attempt_counts_when_it_has_ended() -> None:
    job = a_job(resilience={"stallTimeoutSeconds": 60})
    operator = Operator(job)
    operator.reconcile(succeeded(Stage.PREPARE))
    stalled = a_run(Stage.TRAIN)
    for at in (20, 2000, 2010, 2020):
        operator.reconcile(succeeded(Stage.PREPARE), stalled, at=at)
    assert operator.job.status.failure
    assert ("train", "Stalled") not in operator.counts()
    for at in (2030, 2040):
        operator.reconcile(succeeded(Stage.PREPARE), killed(Stage.TRAIN, finished_at=after(seconds=2025)), at=at)
    assert operator.counts() == {("prepare", "Succeeded"): 1, ("train", "Stalled"): 1}


def test_a_rejected_result_counts_as_such_only() -> None:
    operator = Operator()
    operator.reconcile()
    done = [succeeded(Stage.PREPARE), succeeded(Stage.TRAIN), succeeded(Stage.EVALUATE, evaluation=REFUSED)]
    for at in (10, 20):
        operator.reconcile(*done, at=at)
    assert operator.counts()[("evaluate", "GateFailed")] == 1
    assert ("evaluate", "Succeeded") not in operator.counts()


def test_a_restarted_operator_counts_nothing_again() -> None:
    operator = Operator()
    runs = [failed(Stage.PREPARE, Reason.UNAVAILABLE)]
    operator.reconcile()
    operator.reconcile(*runs)
    restarted = Operator(operator.job)
    restarted.reconcile(*runs, at=11)
    assert restarted.counts() == {}
    restarted.reconcile(*runs, succeeded(Stage.PREPARE, attempt=2), at=3000)
    assert restarted.counts() == {("prepare", "Succeeded"): 1}


def test_an_attempt_that_is_stopped_counts_as_stopped() -> None:
    operator = Operator()
    operator.reconcile()
    stopped = failed(Stage.PREPARE, Reason.STOPPED)
    for at in (10, 20):
        operator.reconcile(stopped, stop=True, at=at)
    operator.reconcile(stopped, at=30)
    assert operator.counts() == {("prepare", "Stopped"): 1}


def test_the_attempt_of_a_superseded_revision_counts() -> None:
    operator = Operator()
    operator.reconcile()
    operator.reconcile(a_run(Stage.PREPARE))
    changed = a_job(training={"epochs": 7})
    operator.job = operator.job.model_copy(update={"spec": changed.spec})
    for at in (20, 30):
        operator.reconcile(a_run(Stage.PREPARE, RunState.STOPPED, finished_at=after(seconds=25)), at=at)
    assert operator.job.status.revision == 2
    assert operator.counts() == {("prepare", "Stopped"): 1}


def test_an_occupied_revision_counts_as_taken() -> None:
    operator = Operator()
    operator.reconcile()
    operator.reconcile(a_run(Stage.PREPARE))
    operator.reconcile(failed(Stage.PREPARE, Reason.REVISION_TAKEN), at=20)
    assert operator.job.status.revision == 2
    assert operator.counts() == {("prepare", "RevisionTaken"): 1}


def test_training_that_was_not_repeated_does_not_count() -> None:
    operator = Operator()
    for count in range(len(STAGES) + 1):
        operator.reconcile(*[succeeded(stage) for stage in STAGES[:count]])
    changed = a_job(evaluation={"gates": [{"metric": "accuracy", "minimum": 0.1}]})
    operator.job = operator.job.model_copy(update={"spec": changed.spec})
    runs = [succeeded(stage) for stage in STAGES]
    operator.reconcile(*runs, at=20)
    operator.reconcile(*runs, succeeded(Stage.PREPARE, revision=2), at=30)
    assert operator.counts()[("train", "Succeeded")] == 1
    assert operator.counts()[("prepare", "Succeeded")] == 2


def test_a_job_that_was_created_again_starts_anew() -> None:
    operator = Operator()
    operator.reconcile()
    operator.reconcile(succeeded(Stage.PREPARE))
    operator.stored(FineTuneJobStatus(), NOON, uid="uid-2")
    assert operator.counts() == {("prepare", "Succeeded"): 1}


def test_waiting_counts_once_for_each_attempt() -> None:
    operator = Operator()
    operator.reconcile(succeeded(Stage.PREPARE))
    for state in (RunState.PENDING, RunState.RUNNING, RunState.PENDING, RunState.RUNNING):
        operator.reconcile(succeeded(Stage.PREPARE), a_run(Stage.TRAIN, state))
    assert operator.waits() == 1
