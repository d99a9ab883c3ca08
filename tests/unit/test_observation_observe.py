"""The observed run of a Job and its pods, in every combination of their states."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_core import names
from finetune_core.runs import ObservedRun, PolledProgress, RunState
from finetune_core.times import to_text
from finetune_operator.observation.observe import observed_run
from tests.builders import NOON, a_progress, after
from tests.kube_objects import a_child, a_pod, ended, failure, job_of, pod_of, running, success, true

COMPLETE = {"conditions": [true("Complete", "CompletionsReached")]}
FAILED = {"conditions": [true("Failed", "BackoffLimitExceeded")]}
STOP = {"annotations": {names.STOP_ANNOTATION: "true"}}
DELETING = {"deletionTimestamp": to_text(NOON)}
RESUMED = true("Suspended", "JobResumed", status="False")


def with_sidecar(status: dict[str, Any]) -> dict[str, Any]:
    """The status of a pod whose stage has ended while the sidecar of a mesh runs."""
    sidecar = {"name": "istio-proxy", "state": {"running": {"startedAt": to_text(NOON)}}}
    return {**status, "phase": "Running", "containerStatuses": [*status["containerStatuses"], sidecar]}


def observe(
    child: dict[str, Any], *pods: dict[str, Any], deleted: tuple[dict[str, Any], ...] = (), now: datetime = NOON
) -> ObservedRun:
    parsed = [*(pod_of(pod) for pod in pods), *(pod_of(pod, deleted=True) for pod in deleted)]
    return observed_run(job_of(child), parsed, (), PolledProgress(a_progress()), now)


class TestPending:
    def test_without_pods(self) -> None:
        assert observe(a_child()).state is RunState.PENDING

    def test_until_all_workers_run(self) -> None:
        child = a_child(workers=2)
        assert observe(child, a_pod(child, 0, **running())).state is RunState.PENDING
        assert observe(child, a_pod(child, 0, **running()), a_pod(child, 1)).state is RunState.PENDING

    def test_with_a_cause(self) -> None:
        child = a_child()
        conditions = [true("PodScheduled", "Unschedulable", "0/3", "False")]
        found = observe(child, a_pod(child, conditions=conditions))
        assert found.pending_cause is not None
        assert found.pending_cause.reason is Reason.UNSCHEDULABLE

    def test_with_pods_of_an_earlier_job_of_the_same_name_only(self) -> None:
        child = a_child(uid="new")
        assert observe(child, a_pod(a_child(uid="old"), **ended(70))).state is RunState.PENDING


class TestRunning:
    def test_started_with_its_last_worker(self) -> None:
        child = a_child(workers=2)
        found = observe(child, a_pod(child, 0, **running()), a_pod(child, 1, **running(after(seconds=7))))
        assert (found.state, found.started_at) == (RunState.RUNNING, after(seconds=7))
        assert found.progress is not None

    def test_ready_as_worker_0_is(self) -> None:
        child = a_child(workers=2)
        other = a_pod(child, 1, **running(), conditions=[true("Ready", status="False")])
        assert observe(child, a_pod(child, 0, **running(), conditions=[true("Ready")]), other).ready
        assert not observe(child, a_pod(child, 0, **running()), other).ready

    def test_while_a_stopping_pod_is_alive(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        dying = a_pod(child, metadata={"deletionTimestamp": to_text(after(seconds=300))}, **running())
        assert observe(child, dying).state is RunState.RUNNING

    def test_ends_when_a_stopping_pod_is_on_an_unresponsive_node(self) -> None:
        """The Job controller sets the Failed condition only after all pods have ended."""
        child = a_child(metadata=STOP)
        dying = a_pod(child, metadata={"deletionTimestamp": to_text(NOON)}, **running())
        assert observe(child, dying, now=after(minutes=1)).alive
        assert not observe(child, dying, now=after(minutes=3)).alive


class TestResumedByAQueue:
    """A queue suspended the Job, so its pods were deleted and replaced."""

    def test_is_pending_until_all_new_workers_run(self) -> None:
        child = a_child(workers=2, conditions=[RESUMED])
        before = tuple(a_pod(child, index, metadata=DELETING, **ended(75)) for index in (0, 1))
        first = a_pod(child, 0, **running(after(seconds=7)))
        assert observe(child, first, deleted=before).state is RunState.PENDING
        found = observe(child, first, a_pod(child, 1, **running(after(seconds=8))), deleted=before)
        assert (found.state, found.started_at) == (RunState.RUNNING, after(seconds=8))

    def test_fails_only_for_ends_after_the_resume(self) -> None:
        child = a_child(conditions=[RESUMED, *FAILED["conditions"]])
        before = a_pod(child, metadata=DELETING, **ended(75, failure(Reason.STOPPED)))
        found = observe(child, a_pod(child, **ended(137, at=after(seconds=9))), deleted=(before,))
        assert (found.exit_code, found.disrupted) == (137, False)


class TestSucceeded:
    def test_with_the_report_of_worker_0(self) -> None:
        child = a_child(workers=2, **COMPLETE)
        found = observe(
            child, a_pod(child, 1, **ended(0, "bye")), a_pod(child, 0, **ended(0, success(), at=after(seconds=9)))
        )
        assert (found.state, found.exit_code, found.finished_at) == (RunState.SUCCEEDED, 0, after(seconds=9))
        assert found.report is not None

    def test_also_after_its_pod_is_deleted(self) -> None:
        child = a_child(**COMPLETE)
        found = observe(child, deleted=(a_pod(child, **ended(0, success())),))
        assert (found.state, found.report is not None) == (RunState.SUCCEEDED, True)

    def test_as_soon_as_all_workers_succeeded(self) -> None:
        """The Job controller sets the condition a second later."""
        child = a_child(workers=2)
        first, second = (a_pod(child, index, **ended(0, success())) for index in (0, 1))
        assert observe(child, first, a_pod(child, 1, **running())).alive
        assert observe(child, first).alive
        assert observe(child, first, second).state is RunState.SUCCEEDED

    def test_although_a_sidecar_runs(self) -> None:
        found = observe(a_child(), a_pod(a_child(), **with_sidecar(ended(0, success()))))
        assert (found.state, found.report is not None) == (RunState.SUCCEEDED, True)

    def test_also_while_it_is_being_stopped(self) -> None:
        child = a_child(metadata=STOP, **COMPLETE)
        assert observe(child, a_pod(child, **ended(0, success()))).state is RunState.SUCCEEDED


class TestFailed:
    def test_although_a_sidecar_runs(self) -> None:
        found = observe(a_child(), a_pod(a_child(), **with_sidecar(ended(76, failure(Reason.DIVERGED)))))
        assert (found.state, found.exit_code, found.disrupted) == (RunState.FAILED, 76, False)

    def test_of_one_worker_with_a_sidecar_is_known_while_the_others_run(self) -> None:
        child = a_child(workers=2)
        held = a_pod(child, 0, **with_sidecar(ended(76, failure(Reason.DIVERGED))))
        found = observe(child, held, a_pod(child, 1, **running()))
        assert (found.alive, found.failing, found.exit_code) == (True, True, 76)
        without = a_pod(child, 0, **ended(76, failure(Reason.DIVERGED)))
        assert not observe(child, without, a_pod(child, 1, **running())).failing

    def test_waits_for_the_condition_of_the_job_if_a_pod_was_deleted(self) -> None:
        """The condition tells whether the Job controller deleted it, after another pod had failed."""
        child = a_child(workers=2)
        pods = (a_pod(child, 0, **ended(70)), a_pod(child, 1, metadata=DELETING, **ended(137)))
        assert observe(child, *pods).alive
        assert not observe(a_child(workers=2, conditions=[true("FailureTarget")]), *pods).alive

    def test_with_the_cause_from_a_pod_report(self) -> None:
        child = a_child(**FAILED)
        found = observe(child, a_pod(child, **ended(76, failure(Reason.DIVERGED))))
        assert (found.state, found.exit_code) == (RunState.FAILED, 76)
        assert found.report is not None

    def test_without_pods_there_is_no_exit_code(self) -> None:
        found = observe(a_child(**FAILED))
        assert (found.state, found.exit_code, found.finished_at) == (RunState.FAILED, None, NOON)

    def test_by_a_disruption(self) -> None:
        child = a_child(**FAILED)
        lost = a_pod(child, phase="Failed", conditions=[true("DisruptionTarget", "PreemptionByScheduler")])
        assert observe(child, lost).disrupted

    def test_by_the_loss_of_its_node(self) -> None:
        taken = true("DisruptionTarget", "DeletionByTaintManager", "the node is gone")
        lost = a_pod(a_child(), metadata={"deletionTimestamp": to_text(NOON)}, conditions=[taken])
        found = observe(a_child(), lost, now=after(minutes=3))
        assert (found.state, found.disrupted) == (RunState.FAILED, True)

    @pytest.mark.parametrize(("finished_pods", "disrupted"), [(1, False), (2, True)])
    def test_possible_consequence_of_an_unobserved_end_is_a_disruption(
        self, finished_pods: int, disrupted: bool
    ) -> None:
        child = a_child(workers=2, failed=finished_pods, **FAILED)
        found = observe(child, a_pod(child, 0, **ended(70, failure(Reason.INTERNAL_ERROR))))
        assert (found.state, found.disrupted) == (RunState.FAILED, disrupted)

    def test_own_cause_counts_despite_an_unobserved_end(self) -> None:
        child = a_child(workers=2, failed=2, **FAILED)
        assert not observe(child, a_pod(child, 0, **ended(76, failure(Reason.DIVERGED)))).disrupted

    @pytest.mark.parametrize(("reason", "disrupted"), [(Reason.INTERNAL_ERROR, True), (Reason.DIVERGED, False)])
    def test_lost_node_counts_unless_another_worker_has_its_own_cause(self, reason: Reason, disrupted: bool) -> None:
        child = a_child(workers=2, metadata=STOP)
        left = a_pod(child, 0, metadata={"deletionTimestamp": to_text(NOON)}, **running())
        found = observe(child, left, a_pod(child, 1, **ended(70, failure(reason))), now=after(minutes=3))
        assert (found.state, found.disrupted) == (RunState.FAILED, disrupted)

    def test_not_before_all_pods_have_ended(self) -> None:
        child = a_child(workers=2, **FAILED)
        assert observe(child, a_pod(child, 0, **ended(70)), a_pod(child, 1, **running())).alive


class TestStopped:
    def test_without_a_report(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        found = observe(child, a_pod(child, **ended(143)))
        assert (found.state, found.error) == (RunState.STOPPED, None)

    def test_without_a_pod(self) -> None:
        assert observe(a_child(metadata=STOP, **FAILED)).state is RunState.STOPPED

    def test_when_its_job_is_deleted_and_no_pod_is_alive(self) -> None:
        child = a_child(metadata=DELETING)
        assert observe(child, deleted=(a_pod(child, **running()),)).state is RunState.STOPPED

    def test_is_not_a_disruption(self) -> None:
        """A busy kubelet may lose track of a container that it kills."""
        child = a_child(metadata=STOP, **FAILED)
        assert not observe(child, a_pod(child, **ended(137, reason="ContainerStatusUnknown"))).disrupted

    def test_keeps_the_report(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        found = observe(child, a_pod(child, **ended(75, failure(Reason.STOPPED))))
        assert found.report is not None


@pytest.mark.parametrize("status", [COMPLETE, FAILED], ids=["complete", "failed"])
def test_finished_job_is_never_alive_again(status: dict[str, Any]) -> None:
    child = a_child(**status)
    assert not observe(child, a_pod(child, **ended(0, success()))).alive
