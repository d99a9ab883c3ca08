"""Pods that a sidecar keeps alive after their stage has ended: a mesh such as Istio injects one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune_api.failures import Reason
from finetune_api.stage import Stage
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, stage
from tests.apiserver.kubelet import message, report_of
from tests.kube_objects import failure


def until_deletion(desk: Desk, pod: dict[str, Any]) -> None:
    meta = pod["metadata"]

    def deleting() -> bool:
        return "deletionTimestamp" in desk.api.get("Pod", meta["name"], desk.namespace)["metadata"]

    wait_until(deleting, f"pod {meta['name']} is being deleted")


class TestSidecar:
    def test_does_not_delay_the_next_stage_and_is_ended(
        self, desk: Desk, start_operator: Callable[..., Operator]
    ) -> None:
        start_operator()
        desk.apply()
        child = desk.child("prepare")
        (pod,) = desk.kubelet.run(child)
        desk.kubelet.ended_beside_sidecar(pod, 0, message(report_of(child)))
        desk.child("train")
        until_deletion(desk, pod)
        # With the exit code of the sidecar, the Job fails: the stage has succeeded nevertheless.
        desk.kubelet.ended(pod, 143)
        desk.kubelet.remove(pod)
        desk.kubelet.fail(child)
        for name in ("train", "evaluate", "publish"):
            desk.kubelet.succeed(desk.child(name))
        desk.until_phase("Succeeded")
        assert [entry["attempt"] for entry in desk.status()["stages"]] == [1, 1, 1, 1]

    def test_of_a_failed_worker_does_not_keep_the_gang_alive(
        self, desk: Desk, start_operator: Callable[..., Operator]
    ) -> None:
        start_operator()
        desk.apply(distributed={"workers": 2, "gpusPerWorker": 1})
        child = desk.run_to("train")
        first, _ = desk.kubelet.run(child)
        desk.kubelet.ended_beside_sidecar(first, 76, failure(Reason.DIVERGED, Stage.TRAIN))
        desk.being_ended(child)
        desk.kubelet.stopped(child, 143)
        status = desk.until_phase("Failed")
        assert (status["failure"]["reason"], stage(status, "train")["attempt"]) == ("Diverged", 1)
