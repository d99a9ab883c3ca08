"""Which of several ends was the cause, and what is said of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from finetune_core.times import to_text
from finetune_kube.objects import PodFacts
from finetune_operator.observation.ends import PodEnd, first_cause, nodes_without_gpus, report_of
from tests.builders import after
from tests.kube_objects import a_child, a_pod, complained, ended, pod_of, running, said, true

GANG = a_child(workers=2)

LOST = [true("DisruptionTarget", "DeletionByTaintManager", "the node is gone")]


def cause(*pods: PodFacts) -> PodEnd:
    """The cause, which does not depend on the order in which pods are seen."""
    found = {first_cause(list(order)) for order in itertools.permutations(pods)}
    (end,) = found
    assert end is not None
    return end


def reason_of(end: PodEnd) -> Reason | None:
    error = end.error or (end.report.error if end.report else None)
    return error.reason if error else None


CAUSES = {
    "diverged": (a_pod(GANG, 1, **ended(76, complained(Reason.DIVERGED))), Reason.DIVERGED),
    "bad data": (a_pod(GANG, 1, **ended(65, complained(Reason.BAD_DATA))), Reason.BAD_DATA),
    "out of memory": (a_pod(GANG, 1, **ended(137, reason="OOMKilled")), Reason.OUT_OF_MEMORY),
    "killed": (a_pod(GANG, 1, **ended(137)), None),
    "node rebooted": (a_pod(GANG, 1, **ended(255, reason="Unknown")), Reason.STOPPED),
    "node lost": (a_pod(GANG, 1, phase="Failed", conditions=LOST), Reason.STOPPED),
}
ECHOES = {
    "broken connection": a_pod(GANG, 0, **ended(70, complained(Reason.INTERNAL_ERROR))),
    "unreachable": a_pod(GANG, 0, **ended(69, complained(Reason.UNAVAILABLE))),
    "silent": a_pod(GANG, 0, **ended(1)),
    "terminated": a_pod(GANG, 0, **ended(143)),
    "stopped": a_pod(GANG, 0, **ended(75, complained(Reason.STOPPED))),
}


class TestTheCause:
    @pytest.mark.parametrize("echo", ECHOES)
    @pytest.mark.parametrize("first", CAUSES)
    def test_is_never_the_echo(self, first: str, echo: str) -> None:
        found, reason = CAUSES[first]
        end = cause(pod_of(found), pod_of(ECHOES[echo]))
        assert end.pod.index == 1
        assert reason_of(end) is reason

    def test_is_the_earlier_of_two_that_are_alike(self) -> None:
        late = a_pod(GANG, 0, **ended(65, complained(Reason.BAD_DATA), at=after(seconds=9)))
        early = a_pod(GANG, 1, **ended(65, complained(Reason.BAD_DATA), at=after(seconds=3)))
        assert cause(pod_of(late), pod_of(early)).pod.index == 1

    def test_is_the_lower_worker_of_two_at_the_same_time(self) -> None:
        pods = [pod_of(a_pod(GANG, index, **ended(70))) for index in (0, 1)]
        assert cause(*pods).pod.index == 0

    def test_is_nobody_who_succeeded(self) -> None:
        done = pod_of(a_pod(GANG, 0, **ended(0, said())))
        assert first_cause([done]) is None
        assert cause(done, pod_of(a_pod(GANG, 1, **ended(70)))).pod.index == 1

    def test_may_be_a_pod_that_is_gone(self) -> None:
        gone = pod_of(a_pod(GANG, 1, **running()), gone=True)
        assert cause(gone).exit_code is None


def deleted(index: int, at: float, grace: int, **status: Any) -> PodFacts:
    """A pod whose deletion was asked for at ``at``."""
    metadata = {"deletionTimestamp": to_text(after(seconds=at + grace)), "deletionGracePeriodSeconds": grace}
    return pod_of(a_pod(GANG, index, metadata=metadata, **status))


class TestADeletion:
    @pytest.mark.parametrize("status", [ended(137, at=after(seconds=4)), ended(143, at=after(seconds=4)), running()])
    def test_by_somebody_is_no_fault_of_the_run(self, status: dict[str, Any]) -> None:
        broken = pod_of(a_pod(GANG, 0, **ended(70, complained(Reason.INTERNAL_ERROR), at=after(seconds=5))))
        end = cause(broken, deleted(1, at=3, grace=0, **status))
        assert (end.pod.index, end.disrupted, reason_of(end)) == (1, True, Reason.STOPPED)

    def test_of_the_others_after_a_crash_is_not_its_cause(self) -> None:
        crashed = pod_of(a_pod(GANG, 1, **ended(70, complained(Reason.INTERNAL_ERROR), at=after(seconds=3))))
        end = cause(crashed, deleted(0, at=3, grace=300, **ended(137, at=after(seconds=400))))
        assert (end.pod.index, end.disrupted, reason_of(end)) == (1, False, Reason.INTERNAL_ERROR)

    def test_of_what_had_failed_by_itself_keeps_its_reason(self) -> None:
        diverged = ended(76, complained(Reason.DIVERGED), at=after(seconds=4))
        end = cause(deleted(0, at=3, grace=300, **diverged), pod_of(a_pod(GANG, 1, **ended(143))))
        assert (end.pod.index, end.disrupted, reason_of(end)) == (0, False, Reason.DIVERGED)

    def test_that_the_run_was_asked_for_is_no_disruption(self) -> None:
        end = first_cause([deleted(0, at=3, grace=300, **ended(137, at=after(seconds=400)))], asked=True)
        assert end is not None
        assert not end.disrupted


class TestWhatIsSaid:
    def test_names_the_limit_that_did_not_suffice(self) -> None:
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(137, reason="OOMKilled"))))
        assert end.error is not None
        assert "its limit of 2Gi, its peak use" in end.error.message

    def test_of_one_process_of_several_that_was_killed_for_memory_is_what_the_others_measured(self) -> None:
        measured = complained(Reason.OUT_OF_MEMORY)
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(78, measured, reason="OOMKilled"))))
        assert (end.error, reason_of(end)) == (None, Reason.OUT_OF_MEMORY)
        assert end.report is not None

    def test_of_missing_gpus_names_the_node_that_misses_them(self) -> None:
        end = cause(pod_of(a_pod(GANG, 1, **ended(69, complained(Reason.GPU_UNAVAILABLE)))))
        assert end.report is not None
        assert end.report.error is not None
        assert end.report.error.message == "It met GpuUnavailable. (worker 1, on node node-1)"

    def test_of_missing_gpus_gives_the_nodes_to_avoid(self) -> None:
        blind, broken = (ended(69, complained(reason)) for reason in (Reason.GPU_UNAVAILABLE, Reason.UNAVAILABLE))
        pods = [pod_of(a_pod(GANG, index, **status)) for index, status in enumerate([broken, blind, running(), blind])]
        nodes = [replace(pod, node=f"node-{9 - pod.index}") for pod in pods]
        assert nodes_without_gpus(nodes) == ["node-6", "node-8"]

    def test_of_an_oom_is_not_what_it_broke(self) -> None:
        broken = complained(Reason.INTERNAL_ERROR)
        end = cause(pod_of(a_pod(a_child(), limit="2Gi", **ended(70, broken, reason="OOMKilled"))))
        assert (end.report, reason_of(end)) == (None, Reason.OUT_OF_MEMORY)

    def test_of_an_oom_without_a_limit_is_that_the_node_was_too_small(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(137, reason="OOMKilled"))))
        assert end.error is not None
        assert "the memory of its node" in end.error.message

    def test_by_the_stage_before_its_node_went_is_kept(self) -> None:
        status = {**ended(75, complained(Reason.STOPPED)), "conditions": LOST}
        end = cause(pod_of(a_pod(a_child(), **status)))
        assert (end.disrupted, end.error) == (True, None)
        assert end.report is not None

    def test_by_a_stage_that_broke_because_its_node_went_is_not(self) -> None:
        status = {**ended(70, complained(Reason.INTERNAL_ERROR)), "conditions": LOST}
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
    def test_when_the_pod_was_evicted_for_its_own_disk(self, message: str) -> None:
        """These are the kubelet's words (pkg/kubelet/eviction/helpers.go)."""
        end = cause(pod_of(a_pod(a_child(), **{**ended(137), "reason": "Evicted", "message": message})))
        assert (reason_of(end), end.disrupted) == (Reason.DISK_FULL, False)

    def test_when_its_node_was_full(self) -> None:
        message = "The node was low on resource: ephemeral-storage. Container trainer was using 40Gi, request is 0."
        end = cause(pod_of(a_pod(a_child(), **{**ended(137), "reason": "Evicted", "message": message})))
        assert (reason_of(end), end.disrupted) == (Reason.STOPPED, True)

    def test_when_its_node_refused_it(self) -> None:
        found = a_pod(a_child(), phase="Failed", reason="OutOfcpu", message="Pod was rejected: Node didn't have enough")
        end = cause(pod_of(found))
        assert (reason_of(end), end.disrupted) == (Reason.KILLED, False)
        assert end.error is not None
        assert end.error.message == (
            "Worker 0 was refused by its node (OutOfcpu): Pod was rejected: Node didn't have enough."
        )

    def test_last_by_an_image_that_is_not_ours(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(127, "sh: finetune: not found\n\n"))))
        assert end.error is not None
        assert end.error.message == "Worker 0 ended with exit code 127; its last words: sh: finetune: not found."

    def test_last_is_not_quoted_where_the_code_says_more(self) -> None:
        assert cause(pod_of(a_pod(a_child(), **ended(65, "some line")))).error is None

    def test_is_quoted_up_to_a_length(self) -> None:
        end = cause(pod_of(a_pod(a_child(), **ended(1, "a" * 4096))))
        assert end.error is not None
        assert len(end.error.message) < 600


class TestAReport:
    def test_is_read_from_the_message(self) -> None:
        report = report_of(pod_of(a_pod(a_child(Stage.PREPARE), **ended(0, said(Stage.PREPARE)))))
        assert report is not None
        assert report.stage is Stage.PREPARE

    @pytest.mark.parametrize("message", ["", "{", "[]", "done", "{" * 20_000, '{"a":' * 3000, said() + " " * 20_000])
    def test_is_nothing_else(self, message: str) -> None:
        assert report_of(pod_of(a_pod(a_child(), **ended(0, message)))) is None
