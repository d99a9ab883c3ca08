"""A Job and its pods as one run, in every state that the two can be seen in."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_core import names
from finetune_core.runs import Heard, ObservedRun, RunState
from finetune_core.times import to_text
from finetune_operator.observation.observe import observed_run
from tests.builders import NOON, a_progress, after
from tests.kube_objects import a_child, a_pod, complained, ended, job_of, pod_of, running, said, true

COMPLETE = {"conditions": [true("Complete", "CompletionsReached")]}
FAILED = {"conditions": [true("Failed", "BackoffLimitExceeded")]}
STOP = {"annotations": {names.STOP_ANNOTATION: "true"}}
DELETING = {"deletionTimestamp": to_text(NOON)}
RESUMED = true("Suspended", "JobResumed", status="False")


def seen(
    child: dict[str, Any], *pods: dict[str, Any], gone: tuple[dict[str, Any], ...] = (), now: datetime = NOON
) -> ObservedRun:
    facts = [*(pod_of(pod) for pod in pods), *(pod_of(pod, gone=True) for pod in gone)]
    return observed_run(job_of(child), facts, (), Heard(a_progress()), now)


class TestARunIsPending:
    def test_without_pods(self) -> None:
        assert seen(a_child()).state is RunState.PENDING

    def test_until_all_workers_compute(self) -> None:
        child = a_child(workers=2)
        assert seen(child, a_pod(child, 0, **running())).state is RunState.PENDING
        assert seen(child, a_pod(child, 0, **running()), a_pod(child, 1)).state is RunState.PENDING

    def test_and_says_what_is_in_the_way(self) -> None:
        child = a_child()
        told = [true("PodScheduled", "Unschedulable", "0/3", "False")]
        found = seen(child, a_pod(child, conditions=told))
        assert found.trouble is not None
        assert found.trouble.reason is Reason.UNSCHEDULABLE

    def test_while_only_pods_of_another_job_of_that_name_are_there(self) -> None:
        child = a_child(uid="new")
        assert seen(child, a_pod(a_child(uid="old"), **ended(70))).state is RunState.PENDING


class TestARunComputes:
    def test_since_its_last_worker_does(self) -> None:
        child = a_child(workers=2)
        found = seen(child, a_pod(child, 0, **running()), a_pod(child, 1, **running(after(seconds=7))))
        assert (found.state, found.started_at) == (RunState.RUNNING, after(seconds=7))
        assert found.progress is not None

    def test_as_long_as_a_pod_that_is_being_stopped_lives(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        dying = a_pod(child, metadata={"deletionTimestamp": to_text(after(seconds=300))}, **running())
        assert seen(child, dying).state is RunState.RUNNING

    def test_no_longer_when_its_node_has_not_been_heard_of(self) -> None:
        """Kubernetes says of a Job that it has failed only when all of its pods have ended."""
        child = a_child(metadata=STOP)
        dying = a_pod(child, metadata={"deletionTimestamp": to_text(NOON)}, **running())
        assert seen(child, dying, now=after(minutes=1)).alive
        assert not seen(child, dying, now=after(minutes=3)).alive


class TestARunThatAQueueHeld:
    """Its pods were deleted, and others took their places."""

    def test_is_pending_until_all_of_its_new_workers_compute(self) -> None:
        child = a_child(workers=2, conditions=[RESUMED])
        before = tuple(a_pod(child, index, metadata=DELETING, **ended(75)) for index in (0, 1))
        first = a_pod(child, 0, **running(after(seconds=7)))
        assert seen(child, first, gone=before).state is RunState.PENDING
        found = seen(child, first, a_pod(child, 1, **running(after(seconds=8))), gone=before)
        assert (found.state, found.started_at) == (RunState.RUNNING, after(seconds=8))

    def test_fails_by_what_happens_after(self) -> None:
        child = a_child(conditions=[RESUMED, *FAILED["conditions"]])
        before = a_pod(child, metadata=DELETING, **ended(75, complained(Reason.STOPPED)))
        found = seen(child, a_pod(child, **ended(137, at=after(seconds=9))), gone=(before,))
        assert (found.exit_code, found.disrupted) == (137, False)


class TestARunHasSucceeded:
    def test_with_what_the_first_worker_reported(self) -> None:
        child = a_child(workers=2, **COMPLETE)
        found = seen(
            child, a_pod(child, 1, **ended(0, "bye")), a_pod(child, 0, **ended(0, said(), at=after(seconds=9)))
        )
        assert (found.state, found.exit_code, found.finished_at) == (RunState.SUCCEEDED, 0, after(seconds=9))
        assert found.report is not None

    def test_also_when_its_pod_is_gone(self) -> None:
        child = a_child(**COMPLETE)
        found = seen(child, gone=(a_pod(child, **ended(0, said())),))
        assert (found.state, found.report is not None) == (RunState.SUCCEEDED, True)

    def test_as_soon_as_all_of_its_workers_have(self) -> None:
        """The Job controller takes a second to say so of the Job."""
        child = a_child(workers=2)
        first, second = (a_pod(child, index, **ended(0, said())) for index in (0, 1))
        assert seen(child, first, a_pod(child, 1, **running())).alive
        assert seen(child, first).alive
        assert seen(child, first, second).state is RunState.SUCCEEDED

    def test_even_while_it_is_being_stopped(self) -> None:
        child = a_child(metadata=STOP, **COMPLETE)
        assert seen(child, a_pod(child, **ended(0, said()))).state is RunState.SUCCEEDED


class TestARunHasFailed:
    def test_for_the_cause_that_a_pod_tells(self) -> None:
        child = a_child(**FAILED)
        found = seen(child, a_pod(child, **ended(76, complained(Reason.DIVERGED))))
        assert (found.state, found.exit_code) == (RunState.FAILED, 76)
        assert found.report is not None

    def test_without_a_word_when_no_pod_is_left(self) -> None:
        found = seen(a_child(**FAILED))
        assert (found.state, found.exit_code, found.finished_at) == (RunState.FAILED, None, NOON)

    def test_by_disruption(self) -> None:
        child = a_child(**FAILED)
        lost = a_pod(child, phase="Failed", conditions=[true("DisruptionTarget", "PreemptionByScheduler")])
        assert seen(child, lost).disrupted

    def test_by_the_loss_of_its_node(self) -> None:
        taken = true("DisruptionTarget", "DeletionByTaintManager", "the node is gone")
        lost = a_pod(a_child(), metadata={"deletionTimestamp": to_text(NOON)}, conditions=[taken])
        found = seen(a_child(), lost, now=after(minutes=3))
        assert (found.state, found.disrupted) == (RunState.FAILED, True)

    @pytest.mark.parametrize(("ended_pods", "disrupted"), [(1, False), (2, True)])
    def test_by_what_may_be_the_echo_of_an_end_that_nobody_saw(self, ended_pods: int, disrupted: bool) -> None:
        child = a_child(workers=2, failed=ended_pods, **FAILED)
        found = seen(child, a_pod(child, 0, **ended(70, complained(Reason.INTERNAL_ERROR))))
        assert (found.state, found.disrupted) == (RunState.FAILED, disrupted)

    def test_for_its_own_cause_whatever_nobody_saw(self) -> None:
        child = a_child(workers=2, failed=2, **FAILED)
        assert not seen(child, a_pod(child, 0, **ended(76, complained(Reason.DIVERGED)))).disrupted

    @pytest.mark.parametrize(("reason", "disrupted"), [(Reason.INTERNAL_ERROR, True), (Reason.DIVERGED, False)])
    def test_by_the_loss_of_a_node_unless_another_worker_tells_a_cause(self, reason: Reason, disrupted: bool) -> None:
        child = a_child(workers=2, metadata=STOP)
        left = a_pod(child, 0, metadata={"deletionTimestamp": to_text(NOON)}, **running())
        found = seen(child, left, a_pod(child, 1, **ended(70, complained(reason))), now=after(minutes=3))
        assert (found.state, found.disrupted) == (RunState.FAILED, disrupted)

    def test_not_before_the_gang_has_ended(self) -> None:
        child = a_child(workers=2, **FAILED)
        assert seen(child, a_pod(child, 0, **ended(70)), a_pod(child, 1, **running())).alive


class TestARunWasStopped:
    def test_when_what_was_asked_to_stop_ends_without_a_word(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        found = seen(child, a_pod(child, **ended(143)))
        assert (found.state, found.error) == (RunState.STOPPED, None)

    def test_when_it_never_had_a_pod(self) -> None:
        assert seen(a_child(metadata=STOP, **FAILED)).state is RunState.STOPPED

    def test_when_its_job_is_deleted_and_nothing_runs(self) -> None:
        child = a_child(metadata=DELETING)
        assert seen(child, gone=(a_pod(child, **running()),)).state is RunState.STOPPED

    def test_and_that_is_no_disruption(self) -> None:
        """A kubelet with much to do may lose sight of what it kills."""
        child = a_child(metadata=STOP, **FAILED)
        assert not seen(child, a_pod(child, **ended(137, reason="ContainerStatusUnknown"))).disrupted

    def test_but_its_own_word_is_heard(self) -> None:
        child = a_child(metadata=STOP, **FAILED)
        found = seen(child, a_pod(child, **ended(75, complained(Reason.STOPPED))))
        assert found.report is not None


@pytest.mark.parametrize("status", [COMPLETE, FAILED], ids=["complete", "failed"])
def test_a_job_that_has_ended_never_runs_again(status: dict[str, Any]) -> None:
    child = a_child(**status)
    assert not seen(child, a_pod(child, **ended(0, said()))).alive
