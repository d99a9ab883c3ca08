"""The root cause among the ends of several pods, and its error message."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_core.times import to_text
from finetune_kube.objects import ChildPod
from finetune_operator.observation.ends import PodEnd, nodes_without_gpus, report_of, root_cause
from tests.builders import after
from tests.kube_objects import a_child, a_pod, ended, failure, pod_of, running, success, true

GANG = a_child(workers=2)

LOST = [true("DisruptionTarget", "DeletionByTaintManager", "the node is gone")]


def cause(*pods: ChildPod, failing_at: float = 5) -> PodEnd:
    """The root cause, which must not depend on the order of the pods."""
    since = after(seconds=failing_at)
    found = {root_cause(list(order), failing_since=since) for order in itertools.permutations(pods)}
    (end,) = found
    assert end is not None
    return end


def reason_of(end: PodEnd) -> Reason | None:
    error = end.error or (end.report.error if end.report else None)
    return error.reason if error else None


CAUSES = {
    "diverged": (a_pod(GANG, 1, **ended(76, failure(Reason.DIVERGED))), Reason.DIVERGED),
    "bad data": (a_pod(GANG, 1, **ended(65, failure(Reason.BAD_DATA))), Reason.BAD_DATA),
    "out of memory": (a_pod(GANG, 1, **ended(137, reason="OOMKilled")), Reason.OUT_OF_MEMORY),
    "killed": (a_pod(GANG, 1, **ended(137)), None),
    "node rebooted": (a_pod(GANG, 1, **ended(255, reason="Unknown")), Reason.STOPPED),
    "node lost": (a_pod(GANG, 1, phase="Failed", conditions=LOST), Reason.STOPPED),
}
CONSEQUENCES = {
    "broken connection": a_pod(GANG, 0, **ended(70, failure(Reason.INTERNAL_ERROR))),
    "unreachable": a_pod(GANG, 0, **ended(69, failure(Reason.UNAVAILABLE))),
    "without report": a_pod(GANG, 0, **ended(1)),
    "terminated": a_pod(GANG, 0, **ended(143)),
    "stopped": a_pod(GANG, 0, **ended(75, failure(Reason.STOPPED))),
}


class TestRootCause:
    @pytest.mark.parametrize("consequence", CONSEQUENCES)
    @pytest.mark.parametrize("first", CAUSES)
    def test_is_never_a_consequence(self, first: str, consequence: str) -> None:
        found, reason = CAUSES[first]
        end = cause(pod_of(found), pod_of(CONSEQUENCES[consequence]))
        assert end.pod.index == 1
        assert reason_of(end) is reason

    def test_is_the_earlier_of_two_equal_failures(self) -> None:
        late = a_pod(GANG, 0, **ended(65, failure(Reason.BAD_DATA), at=after(seconds=9)))
        early = a_pod(GANG, 1, **ended(65, failure(Reason.BAD_DATA), at=after(seconds=3)))
        assert cause(pod_of(late), pod_of(early)).pod.index == 1

    def test_is_the_lower_worker_index_at_the_same_time(self) -> None:
        pods = [pod_of(a_pod(GANG, index, **ended(70))) for index in (0, 1)]
        assert cause(*pods).pod.index == 0

    def test_is_never_a_pod_that_succeeded(self) -> None:
        done = pod_of(a_pod(GANG, 0, **ended(0, success())))
        assert root_cause([done]) is None
        assert cause(done, pod_of(a_pod(GANG, 1, **ended(70)))).pod.index == 1

    def test_may_be_a_deleted_pod(self) -> None:
        pod = pod_of(a_pod(GANG, 1, **running()), deleted=True)
        assert cause(pod).exit_code is None


def deleted(index: int, at: float, grace: int, **status: Any) -> ChildPod:
    """A pod whose deletion was requested at ``at``."""
    metadata = {"deletionTimestamp": to_text(after(seconds=at + grace)), "deletionGracePeriodSeconds": grace}
    return pod_of(a_pod(GANG, index, metadata=metadata, **status))


class TestDeletion:
    @pytest.mark.parametrize("status", [ended(137, at=after(seconds=4)), ended(143, at=after(seconds=4)), running()])
    def test_from_outside_is_a_disruption(self, status: dict[str, Any]) -> None:
        broken = pod_of(a_pod(GANG, 0, **ended(70, failure(Reason.INTERNAL_ERROR), at=after(seconds=5))))
        end = cause(broken, deleted(1, at=3, grace=0, **status))
        assert (end.pod.index, end.disrupted, reason_of(end)) == (1, True, Reason.STOPPED)

    def test_of_other_pods_after_a_crash_is_not_the_cause(self) -> None:
        crashed = pod_of(a_pod(GANG, 1, **ended(70, failure(Reason.INTERNAL_ERROR), at=after(seconds=3))))
        end = cause(crashed, deleted(0, at=3, grace=300, **ended(137, at=after(seconds=400))), failing_at=3)
        assert (end.pod.index, end.disrupted, reason_of(end)) == (1, False, Reason.INTERNAL_ERROR)

    @pytest.mark.parametrize("clock", [-3600, 3600])
    def test_does_not_depend_on_the_clock_of_a_node(self, clock: float) -> None:
        crashed = pod_of(a_pod(GANG, 1, **ended(70, failure(Reason.INTERNAL_ERROR), at=after(seconds=3 + clock))))
        end = cause(crashed, deleted(0, at=3, grace=300, **ended(137, at=after(seconds=9))), failing_at=3)
        assert (end.pod.index, end.disrupted) == (1, False)

    def test_of_a_pod_that_had_failed_keeps_its_reason(self) -> None:
        diverged = ended(76, failure(Reason.DIVERGED), at=after(seconds=4))
        end = cause(deleted(0, at=3, grace=300, **diverged), pod_of(a_pod(GANG, 1, **ended(143))))
        assert (end.pod.index, end.disrupted, reason_of(end)) == (0, False, Reason.DIVERGED)

    def test_requested_by_the_operator_is_not_a_disruption(self) -> None:
        end = root_cause([deleted(0, at=3, grace=300, **ended(137, at=after(seconds=400)))], stop_requested=True)
        assert end is not None
        assert not end.disrupted


class TestErrorOfAnEnd:
    def test_oom_kill_names_the_memory_limit(self) -> None:
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(137, reason="OOMKilled"))))
        assert end.error is not None
        assert "its limit of 2Gi, its peak use" in end.error.message

    def test_oom_kill_of_one_process_keeps_the_report_of_another(self) -> None:
        measured = failure(Reason.OUT_OF_MEMORY)
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(78, measured, reason="OOMKilled"))))
        assert (end.error, reason_of(end)) == (None, Reason.OUT_OF_MEMORY)
        assert end.report is not None

    def test_missing_gpus_name_the_node(self) -> None:
        end = cause(pod_of(a_pod(GANG, 1, **ended(69, failure(Reason.GPU_UNAVAILABLE)))))
        assert end.report is not None
        assert end.report.error is not None
        assert end.report.error.message == "It met GpuUnavailable. (worker 1, on node node-1)"

    def test_missing_gpus_give_the_nodes_to_avoid(self) -> None:
        blind, broken = (ended(69, failure(reason)) for reason in (Reason.GPU_UNAVAILABLE, Reason.UNAVAILABLE))
        pods = [pod_of(a_pod(GANG, index, **status)) for index, status in enumerate([broken, blind, running(), blind])]
        nodes = [replace(pod, node=f"node-{9 - pod.index}") for pod in pods]
        assert nodes_without_gpus(nodes) == ["node-6", "node-8"]

    def test_oom_kill_replaces_a_report_about_its_consequences(self) -> None:
        broken = failure(Reason.INTERNAL_ERROR)
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(70, broken, reason="OOMKilled"))))
        assert (end.report, reason_of(end)) == (None, Reason.OUT_OF_MEMORY)

    def test_oom_kill_without_a_limit_names_the_node_memory(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(137, reason="OOMKilled"))))
        assert end.error is not None
        assert "the memory of its node" in end.error.message

    def test_disrupted_pod_keeps_the_report_of_a_stopped_stage(self) -> None:
        status = {**ended(75, failure(Reason.STOPPED)), "conditions": LOST}
        end = cause(pod_of(a_pod(a_child(), **status)))
        assert (end.disrupted, end.error) == (True, None)
        assert end.report is not None

    def test_disrupted_pod_drops_a_report_about_consequences(self) -> None:
        status = {**ended(70, failure(Reason.INTERNAL_ERROR)), "conditions": LOST}
        end = cause(pod_of(a_pod(a_child(), **status)))
        assert (end.disrupted, reason_of(end)) == (True, Reason.STOPPED)

    @pytest.mark.parametrize(
        "message",
        [
            'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            'Usage of EmptyDir volume "workspace" exceeds the limit "50Gi". ',
        ],
    )
    def test_eviction_for_the_pods_own_disk_use_is_disk_full(self, message: str) -> None:
        """The messages are those of the kubelet (pkg/kubelet/eviction/helpers.go)."""
        end = cause(pod_of(a_pod(a_child(), **{**ended(137), "reason": "Evicted", "message": message})))
        assert (reason_of(end), end.disrupted) == (Reason.DISK_FULL, False)

    def test_eviction_for_a_full_node_disk_is_a_disruption(self) -> None:
        message = "The node was low on resource: ephemeral-storage. Container trainer was using 40Gi, request is 0."
        end = cause(pod_of(a_pod(a_child(), **{**ended(137), "reason": "Evicted", "message": message})))
        assert (reason_of(end), end.disrupted) == (Reason.STOPPED, True)

    def test_rejection_by_the_node_is_reported(self) -> None:
        found = a_pod(a_child(), phase="Failed", reason="OutOfcpu", message="Pod was rejected: Node didn't have enough")
        end = cause(pod_of(found))
        assert (reason_of(end), end.disrupted) == (Reason.KILLED, False)
        assert end.error is not None
        assert end.error.message == (
            "Worker 0 was rejected by its node (OutOfcpu): Pod was rejected: Node didn't have enough."
        )

    def test_crash_without_report_quotes_the_last_log_line(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(127, "sh: finetune: not found\n\n"))))
        assert end.error is not None
        assert end.error.message == "Worker 0 ended with exit code 127; last log line: sh: finetune: not found."

    def test_known_exit_code_without_report_is_not_quoted(self) -> None:
        assert cause(pod_of(a_pod(a_child(), **ended(65, "some line")))).error is None

    def test_quoted_log_line_is_clipped(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(1, "a" * 4096))))
        assert end.error is not None
        assert len(end.error.message) < 600


class TestReport:
    def test_is_parsed_from_the_termination_message(self) -> None:
        report = report_of(pod_of(a_pod(a_child(Stage.PREPARE), **ended(0, success(Stage.PREPARE)))))
        assert report is not None
        assert report.stage is Stage.PREPARE

    @pytest.mark.parametrize("message", ["", "{", "[]", "done", "{" * 20_000, '{"a":' * 3000, success() + " " * 20_000])
    def test_invalid_message_is_no_report(self, message: str) -> None:
        assert report_of(pod_of(a_pod(a_child(), **ended(0, message)))) is None
