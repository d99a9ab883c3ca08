"""What jobs cost that wait for pods that do not start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import uvloop

from bench.operator.burst import warm_up
from bench.operator.client import Plain, in_parallel
from bench.operator.floor import Bodies, name_of
from bench.operator.report import figure, medians, say
from bench.operator.testbed import Bench, Side, no_writes, per, quiet, remove
from tests.apiserver.desk import Operator
from tests.apiserver.kubelet import INDEX, now

_QUIET_SECONDS = 12.0
"""Longer than an operator waits before it asks again about what does not start."""
Object = dict[str, Any]


def pending(bench: Bench, sides: Sequence[Side], count: int, seconds: float) -> None:
    """``count`` jobs whose Jobs get no pods; whose pods no node takes; whose pods have a node and no container."""
    for side in sides:
        with bench.operator(side) as operator:
            uvloop.run(_pending(bench, side, operator, count, seconds))


async def _pending(bench: Bench, side: Side, operator: Operator, count: int, seconds: float) -> None:
    async with Plain(bench.plane) as plain:
        await warm_up(bench, plain, operator)
        await no_writes(plain, operator, 3)
        idle, _ = await _used(bench, plain, seconds)
        say(f"pending{side}: idle, they use {sum(idle.values()):.3f} of a core; now {count} jobs are applied")
        figure("idle_core_share", sum(idle.values()), "cores", by=medians([idle], 4), **side.labels)
        namespace = bench.namespace()
        bodies, nodes = Bodies(namespace), _Nodes(plain, namespace)

        async def apply(number: int) -> None:
            name = name_of(number)
            await plain.apply("FineTuneJob", namespace, name, bodies.job(name))

        await in_parallel(apply, range(count))
        await quiet(plain, operator, count)
        steps: dict[str, Callable[[Object], Awaitable[None]]] = {
            "none": nodes.refuse,
            "unschedulable": nodes.leave_unscheduled,
            "starting": nodes.bind,
        }
        for pods, step in steps.items():
            await in_parallel(step, await plain.list("Job", namespace))
            await no_writes(plain, operator, _QUIET_SECONDS)
            used, requests = await _used(bench, plain, seconds)
            above = sum(used.values()) - sum(idle.values())
            say(f"pending{side}: pods {pods}: {above:.3f} of a core above, {sum(requests.values()):.1f} requests/s")
            by, per_second = medians([used], 4), medians([requests])
            more = {"by": by, "requests_per_second": per_second, "jobs": count, "seconds": seconds}
            figure("pending_core_share", above, "cores", pods=pods, **more, **side.labels)
        await remove(plain, operator, namespace)


async def _used(bench: Bench, plain: Plain, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """What each process but this one uses of a core, and what the API server is asked for a second."""
    requests, cpu, began = await bench.requests(plain), bench.cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    after, passed = bench.cpu(), time.monotonic() - began
    used = per(passed, after, cpu)
    used.pop("client")
    return used, per(passed, await bench.requests(plain), requests)


class _Nodes:
    """The Job controller, the scheduler and the kubelets, as far as a pod comes that does not start."""

    def __init__(self, plain: Plain, namespace: str) -> None:
        self._plain = plain
        self._namespace = namespace
        self._pods: dict[str, Object] = {}

    async def refuse(self, job: Object) -> None:
        """No pod is let in."""
        await self._plain.merge_status("Job", self._namespace, job["metadata"]["name"], {"startTime": now()})
        told = (
            f'Error creating: pods "{job["metadata"]["name"]}-0-" is forbidden: exceeded quota: gpus, requested: pods=1'
        )
        await self._warn("Job", job, "FailedCreate", told)

    async def leave_unscheduled(self, job: Object) -> None:
        """There is a pod, and no node takes it."""
        pod = await self._plain.create("Pod", self._namespace, _pod(job))
        self._pods[job["metadata"]["uid"]] = pod
        told = "0/3 nodes are available: 3 Insufficient memory."
        await self._condition(pod, status="False", reason="Unschedulable", message=told)
        await self._warn("Pod", pod, "FailedScheduling", told)

    async def bind(self, job: Object) -> None:
        """A node has the pod, and cannot make its container."""
        pod = self._pods[job["metadata"]["uid"]]
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self._plain.create("Pod", self._namespace, binding, f"/{name}/binding")
        told = 'MountVolume.SetUp failed for volume "config" : timed out waiting for the condition'
        await self._warn("Pod", pod, "FailedMount", told)

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
    """The pod with index 0 of a Job, as the Job controller makes it."""
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
