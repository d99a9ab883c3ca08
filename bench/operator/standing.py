"""The cost of many finished jobs, and of many running jobs."""

from __future__ import annotations

import asyncio
import copy
import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop

from bench.operator.client import PlainClient, in_parallel
from bench.operator.report import figure, log
from bench.operator.testbed import Bench, Side, operator_metrics, per, remove, wait_until_settled
from finetune_api.stage import StageConfig
from tests.apiserver.desk import Desk
from tests.ports import LOOPBACK

PROGRESS_ADDRESS = (LOOPBACK, int(StageConfig.model_fields["port"].default))
"""The address of ``/progress`` of every pod."""
_FIRST_PROGRESS_SECONDS = 20.0
"""Longer than the interval between two reads of the progress of a run."""
_TYPE = {"FineTuneJob": {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}}


def finished(bench: Bench, sides: Sequence[Side], count: int, seconds: float) -> None:
    """Measure finished jobs, each with its four Jobs and pods."""
    for side in sides:
        with bench.operator(side):
            desk = Desk(bench.admin, bench.namespace())
            desk.apply("original")
            desk.run_all("original")
            uvloop.run(_finished(bench, side, desk, count, seconds))


async def _finished(bench: Bench, side: Side, desk: Desk, count: int, seconds: float) -> None:
    more = {"finished_jobs": count, **side.labels}
    async with PlainClient(bench.plane) as plain:
        await wait_until_settled(plain, bench.running, 1)
        bench.stop_operator()
        await clone_all(plain, desk, count)
        log(f"finished{side}: {count} jobs exist; restarting the operator")
        began = time.monotonic()
        bench.start_operator(side)
        caught_up = await wait_until_settled(plain, bench.running, count + 1) - began
        figure("restart_to_caught_up_seconds", caught_up, "s", **more)
        await asyncio.sleep(5)
        figure("finished_resident_megabytes", bench.memory()[0], "MB", **more)
        figure("finished_core_share", await _load(bench, seconds), "cores", **more)
        await remove(plain, bench.running, desk.namespace)


def running(bench: Bench, sides: Sequence[Side], count: int, seconds: float) -> None:
    """Measure training jobs whose progress changes all the time."""
    for side in sides:
        with progress_server(), bench.operator(side):
            desk = Desk(bench.admin, bench.namespace())
            desk.apply("original")
            desk.kubelet.run(desk.run_to("train", "original"))
            desk.until_phase("Training", "original")
            desk.until(lambda status: status["stages"][1]["state"] == "Running", "the stage train runs", "original")
            uvloop.run(_running(bench, side, desk, count, seconds))


async def _running(bench: Bench, side: Side, desk: Desk, count: int, seconds: float) -> None:
    async with PlainClient(bench.plane) as plain:
        bench.stop_operator()
        await clone_all(plain, desk, count)
        bench.start_operator(side)
        log(f"running{side}: {count} jobs train; measuring for {seconds:.0f} s")
        await asyncio.sleep(_FIRST_PROGRESS_SECONDS)
        before = (await operator_metrics(plain, bench.running)).requests()
        share = await _load(bench, seconds)
        after = (await operator_metrics(plain, bench.running)).requests()
        writes = {name: value for name, value in per(1, after, before).items() if value}
        figure("running_core_share", share, "cores", running_jobs=count, requests=writes, **side.labels)
        await remove(plain, bench.running, desk.namespace)


async def _load(bench: Bench, seconds: float) -> float:
    """The cores that the operator uses."""
    before = bench.cpu()["operator"]
    await asyncio.sleep(seconds)
    return (bench.cpu()["operator"] - before) / seconds


async def clone_all(plain: PlainClient, desk: Desk, count: int) -> None:
    """Create ``count`` copies of the original job, with its Jobs and pods."""
    original = desk.job("original")
    children = desk.api.list("Job", desk.namespace)
    pods = {pod["metadata"]["ownerReferences"][0]["uid"]: pod for pod in desk.api.list("Pod", desk.namespace)}

    async def clone(number: int) -> None:
        name = f"job-{number}"
        job = await _made(plain, "FineTuneJob", original, name, [])
        owner = {**children[0]["metadata"]["ownerReferences"][0], "name": name, "uid": job["metadata"]["uid"]}
        for child in children:
            child_name = child["metadata"]["name"].replace("original", name)
            new = await _made(plain, "Job", child, child_name, [owner], job=name)
            if pod := pods.get(child["metadata"]["uid"]):
                pod_owner = {**pod["metadata"]["ownerReferences"][0], "name": child_name, "uid": new["metadata"]["uid"]}
                await _made(plain, "Pod", pod, f"{child_name}-0-xxxxx", [pod_owner], job=name)

    await in_parallel(clone, range(count))


async def _made(
    plain: PlainClient, kind: str, like: dict[str, Any], name: str, owners: list[Any], *, job: str = ""
) -> dict[str, Any]:
    """Create an object with the spec and status of another. ``job`` is the FineTuneJob that owns it."""
    meta, spec = copy.deepcopy(like["metadata"]), copy.deepcopy(like["spec"])
    labels = meta.get("labels", {}) | ({"finetune.dev/job": job} if job else {})
    metadata = {
        "name": name,
        "namespace": meta["namespace"],
        "labels": labels,
        "annotations": meta.get("annotations", {}),
        "ownerReferences": owners,
    }
    if kind == "Job":
        # The API server generates a selector for every Job.
        del spec["selector"]
        for found in (labels, spec["template"]["metadata"]["labels"]):
            for label in [label for label in found if label.endswith(("controller-uid", "job-name"))]:
                del found[label]
    body = {**_TYPE.get(kind, {}), "metadata": metadata, "spec": spec}
    created = await plain.create(kind, meta["namespace"], body)
    await plain.merge_status(kind, meta["namespace"], name, like["status"])
    return created


@contextmanager
def progress_server() -> Iterator[None]:
    """Serve ``/progress`` for every pod: a training that makes progress."""
    began = time.time()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            step = int(time.time() - began)
            progress = {
                "stage": "train",
                "attempt": 1,
                "activity": "training",
                "updatedAt": time.time(),
                "done": step,
                "total": 100_000,
                "etaSeconds": 100_000.0 - step,
                "loss": 1 / (step + 1),
                "tokensPerSecond": 1000.0 + step,
            }
            body = json.dumps(progress).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(PROGRESS_ADDRESS, Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
