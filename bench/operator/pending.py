"""The cost of jobs that wait for pods that do not start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import uvloop

from bench.operator.burst import warm_up
from bench.operator.client import PlainClient, in_parallel
from bench.operator.floor import Bodies, name_of
from bench.operator.report import figure, log, medians
from bench.operator.testbed import Bench, Side, per, remove, wait_until_settled, wait_without_writes
from tests.apiserver.desk import Operator
from tests.apiserver.kubelet import INDEX, now

_QUIET_SECONDS = 12.0
"""Longer than the operator's requeue interval for pods that do not start."""
Object = dict[str, Any]


def pending(bench: Bench, sides: Sequence[Side], count: int, seconds: float) -> None:
    """Measure ``count`` jobs whose Jobs have no pods, then unschedulable pods, then pods without a container."""
    for side in sides:
        with bench.operator(side) as operator:
            uvloop.run(_pending(bench, side, operator, count, seconds))


async def _pending(bench: Bench, side: Side, operator: Operator, count: int, seconds: float) -> None:
    async with PlainClient(bench.plane) as plain:
        await warm_up(bench, plain, operator)
        await wait_without_writes(plain, operator, 3)
        idle, _ = await _used(bench, plain, seconds)
        log(f"pending{side}: idle use {sum(idle.values()):.3f} cores; applying {count} jobs")
        figure("idle_core_share", sum(idle.values()), "cores", by=medians([idle], 4), **side.labels)
        namespace = bench.namespace()
        bodies, nodes = Bodies(namespace), _Nodes(plain, namespace)

        async def apply(number: int) -> None:
            name = name_of(number)
            await plain.apply("FineTuneJob", namespace, name, bodies.job(name))

        await in_parallel(apply, range(count))
        await wait_until_settled(plain, operator, count)
        steps: dict[str, Callable[[Object], Awaitable[None]]] = {
            "none": nodes.refuse,
            "unschedulable": nodes.leave_unscheduled,
            "starting": nodes.bind,
        }
        for pods, step in steps.items():
            await in_parallel(step, await plain.list("Job", namespace))
            await wait_without_writes(plain, operator, _QUIET_SECONDS)
            used, requests = await _used(bench, plain, seconds)
            above = sum(used.values()) - sum(idle.values())
            log(f"pending{side}: pods {pods}: {above:.3f} cores above idle, {sum(requests.values()):.1f} requests/s")
            by, per_second = medians([used], 4), medians([requests])
            more = {"by": by, "requests_per_second": per_second, "jobs": count, "seconds": seconds}
            figure("pending_core_share", above, "cores", pods=pods, **more, **side.labels)
        await remove(plain, operator, namespace)


async def _used(bench: Bench, plain: PlainClient, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Cores that each process except this one uses, and the requests per second to the API server."""
    requests, cpu, began = await bench.requests(plain), bench.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    after, passed = bench.cpu(), time.monotonic() - began
    used = per(passed, after, cpu)
    used.pop("client")
    return used, per(passed, await bench.requests(plain), requests)


class _Nodes:
    """Simulates Job controller, scheduler and kubelets for pods that do not start."""

    def __init__(self, plain: PlainClient, namespace: str) -> None:
        self._plain = plain
        self._namespace = namespace
        self._pods: dict[str, Object] = {}

    async def refuse(self, job: Object) -> None:
        """The quota rejects the pods."""
        await self._plain.merge_status("Job", self._namespace, job["metadata"]["name"], {"startTime": now()})
        message = (
            f'Error creating: pods "{job["metadata"]["name"]}-0-" is forbidden: exceeded quota: gpus, requested: pods=1'
        )
        await self._warn("Job", job, "FailedCreate", message)

    async def leave_unscheduled(self, job: Object) -> None:
        """The pod exists and is unschedulable."""
        pod = await self._plain.create("Pod", self._namespace, _pod(job))
        self._pods[job["metadata"]["uid"]] = pod
        message = "0/3 nodes are available: 3 Insufficient memory."
        await self._condition(pod, status="False", reason="Unschedulable", message=message)
        await self._warn("Pod", pod, "FailedScheduling", message)

    async def bind(self, job: Object) -> None:
        """The pod is bound to a node that cannot create its container."""
        pod = self._pods[job["metadata"]["uid"]]
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self._plain.create("Pod", self._namespace, binding, f"/{name}/binding")
        message = 'MountVolume.SetUp failed for volume "config" : timed out waiting for the condition'
        await self._warn("Pod", pod, "FailedMount", message)

    async def _condition(self, pod: Object, **condition: str) -> None:
        conditions = [{"type": "PodScheduled", "lastTransitionTime": now(), **condition}]
        status = {"phase": "Pending", "conditions": conditions}
        await self._plain.merge_status("Pod", self._namespace, pod["metadata"]["name"], status)

    async def _warn(self, kind: str, about: Mapping[str, Any], reason: str, text: str) -> None:
        meta = about["metadata"]
        involved = {"kind": kind, "name": meta["name"], "namespace": self._namespace, "uid": meta["uid"]}
        event = {
            "metadata": {"generateName": f"{meta['name']}.", "namespace": self._namespace},
            "involvedObject": involved,
            "type": "Warning",
            "reason": reason,
            "message": text,
        }
        await self._plain.create("Event", self._namespace, event)


def _pod(job: Object) -> Object:
    """The pod with completion index 0, as the Job controller creates it."""
    meta, template = job["metadata"], job["spec"]["template"]
    name = f"{meta['name']}-0"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
    metadata = {
        "generateName": f"{name}-",
        "labels": template["metadata"]["labels"],
        "annotations": {**template["metadata"].get("annotations", {}), INDEX: "0"},
        "ownerReferences": [owner],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**template["spec"], "hostname": name}}
