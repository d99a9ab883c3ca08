"""The operator on a real API server: how soon a job has its child, how many at once, and what it costs to stand by.

Nobody runs the pods here, so what is measured is the operator and the API server on the same cores.
"""

from __future__ import annotations

import argparse
import copy
import http.server
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from finetune_api.stage import StageConfig
from tests.apiserver.api import Api
from tests.apiserver.conftest import admin_of, install_crd
from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator

_WRITERS = 8
_PROGRESS_PORT: int = StageConfig.model_fields["port"].default
_PATIENCE_SECONDS = 600.0
_TYPE = {"FineTuneJob": {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob"}}


def figure(name: str, value: float, unit: str, **more: Any) -> None:
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, **more}), flush=True)


class Bench:
    """A control plane and an operator on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.plane = ControlPlane(directory / "plane")
        self.plane.start()
        self.admin = admin_of(self.plane)
        install_crd(self.admin)
        self.operator = self.start_operator()
        self._namespaces = 0

    def start_operator(self) -> Operator:
        # As it is installed: progress every 15 s, a full look every 5 minutes.
        settings = {"progressSeconds": 15, "resyncSeconds": 300}
        return Operator(self.plane.kubeconfig, self._directory / "operator", **settings).start()

    def restart(self) -> float:
        """Seconds from the start of the process until it has seen all that exists."""
        self.operator.stop()
        began = time.monotonic()
        self.operator = self.start_operator()
        wait_until(lambda: self.value("finetune_queue_depth") == 0, "the queue is empty", _PATIENCE_SECONDS)
        return time.monotonic() - began

    def value(self, series: str) -> float:
        _, text = self.operator.http("/metrics")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{series} ")), -1.0)

    def desk(self) -> Desk:
        self._namespaces += 1
        name = f"bench-{self._namespaces}"
        self.admin.create("Namespace", {"metadata": {"name": name}})
        return Desk(self.admin, name)

    def resident(self) -> float:
        """Of the operator, in MB."""
        return psutil.Process(self.operator.pid).memory_info().rss / 1e6

    def load(self, seconds: float) -> float:
        """Share of a core that the operator uses, over ``seconds``."""
        process = psutil.Process(self.operator.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / seconds

    def close(self) -> None:
        self.operator.kill()
        self.plane.stop()


class ChildWatch(threading.Thread):
    """Notes when each child Job of a namespace is there, by the API server's own word."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        super().__init__(daemon=True)
        self._api = Api(plane.url, plane.ca, plane.admin_token)
        self._namespace = namespace
        self.seen: dict[str, float] = {}
        self.ready = threading.Event()

    def run(self) -> None:
        connection = self._api._connection()
        headers = {"Authorization": f"Bearer {self._api._token}"}
        path = self._api.path("Job", self._namespace)
        connection.request("GET", f"{path}?watch=true&timeoutSeconds=1800", headers=headers)
        response = connection.getresponse()
        self.ready.set()
        for line in response:
            event = json.loads(line)
            if event["type"] == "ADDED":
                self.seen.setdefault(event["object"]["metadata"]["labels"]["finetune.dev/job"], time.monotonic())


@contextmanager
def watched(bench: Bench, desk: Desk) -> Iterator[ChildWatch]:
    watch = ChildWatch(bench.plane, desk.namespace)
    watch.start()
    watch.ready.wait(10)
    yield watch


def in_parallel(work: Callable[[Any], object], what: Iterable[Any]) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(work, what))


def submit(bench: Bench, times: int) -> None:
    """One job after another: from the answer to its apply until its child Job is there."""
    desk = bench.desk()
    seconds = []
    with watched(bench, desk) as watch:
        for number in range(times):
            name = f"job-{number}"
            manifest = desk.manifest(name)
            began = time.monotonic()
            desk.api.apply(manifest)
            wait_until(lambda name=name: name in watch.seen, f"{name} has its Job", every=0.001)
            seconds.append(watch.seen[name] - began)
            time.sleep(0.2)  # Let the writes that follow the Job pass: one job, not a queue of them.
    figure("submit_to_job_seconds", statistics.median(seconds), "s", worst=round(max(seconds), 4), times=times)


def burst(bench: Bench, count: int) -> None:
    """All at once: from the first apply until each has its child Job."""
    desk = bench.desk()
    manifests = [desk.manifest(f"job-{number}") for number in range(count)]
    with watched(bench, desk) as watch:
        began = time.monotonic()
        in_parallel(desk.api.apply, manifests)
        applied = time.monotonic() - began
        wait_until(lambda: len(watch.seen) == count, "each has its Job", _PATIENCE_SECONDS, every=0.01)
        seconds = max(watch.seen.values()) - began
    settled(bench)
    figure("burst_jobs_per_second", count / seconds, "1/s", jobs=count, applied_seconds=round(applied, 2))
    remove(bench, desk)


def settled(bench: Bench) -> None:
    wait_until(lambda: bench.value("finetune_queue_depth") == 0, "the queue is empty", _PATIENCE_SECONDS, every=0.2)


def remove(bench: Bench, desk: Desk) -> None:
    """Nobody collects garbage here."""
    for kind in ("FineTuneJob", "Job", "Pod"):
        found = desk.api.list(kind, desk.namespace)
        names = [item["metadata"]["name"] for item in found]
        in_parallel(
            lambda name, kind=kind: desk.api.delete(
                kind, name, desk.namespace, gracePeriodSeconds=0, propagationPolicy="Background"
            ),
            names,
        )
    settled(bench)


def finished(bench: Bench, count: int) -> None:
    """Many jobs that have ended, each with the four Jobs and pods that it leaves."""
    desk = bench.desk()
    desk.apply("original")
    desk.run_all("original")
    bench.operator.stop()
    clone_all(desk, count)
    figure("restart_to_caught_up_seconds", bench.restart(), "s", finished_jobs=count)
    time.sleep(5)
    figure("finished_resident_megabytes", bench.resident(), "MB", finished_jobs=count)
    figure("finished_core_share", bench.load(60), "cores", finished_jobs=count)
    remove(bench, desk)


def running(bench: Bench, count: int) -> None:
    """Many jobs that train, whose progress changes all the time."""
    desk = bench.desk()
    with progress_server():
        desk.apply("original")
        child = desk.run_to("train", "original")
        desk.kubelet.run(child)
        desk.until(lambda status: status["stages"][1]["state"] == "Running", "it trains", "original")
        bench.operator.stop()
        clone_all(desk, count)
        bench.restart()
        time.sleep(30)
        before = requests(bench)
        share = bench.load(60)
        figure("running_core_share", share, "cores", running_jobs=count, status_writes=requests(bench) - before)
    remove(bench, desk)


def requests(bench: Bench) -> int:
    return int(bench.value('finetune_api_requests_total{code="200",method="PATCH",resource="finetunejobs"}'))


def clone_all(desk: Desk, count: int) -> None:
    """``count`` jobs more that look like the original."""
    original = desk.job("original")
    children = desk.api.list("Job", desk.namespace)
    pods = {pod["metadata"]["ownerReferences"][0]["uid"]: pod for pod in desk.api.list("Pod", desk.namespace)}

    def clone(number: int) -> None:
        name = f"job-{number}"
        job = made(desk.api, "FineTuneJob", original, name, [])
        owner = {**children[0]["metadata"]["ownerReferences"][0], "name": name, "uid": job["metadata"]["uid"]}
        for child in children:
            child_name = child["metadata"]["name"].replace("original", name)
            new = made(desk.api, "Job", child, child_name, [owner], job=name)
            if pod := pods.get(child["metadata"]["uid"]):
                pod_owner = {**pod["metadata"]["ownerReferences"][0], "name": child_name, "uid": new["metadata"]["uid"]}
                made(desk.api, "Pod", pod, f"{child_name}-0-xxxxx", [pod_owner], job=name)

    in_parallel(clone, range(count))


def made(api: Api, kind: str, like: dict[str, Any], name: str, owners: list[Any], *, job: str = "") -> dict[str, Any]:
    """An object with the spec and status of another; ``job`` is the FineTuneJob that it belongs to."""
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
        # The API server gives every Job a selector of its own.
        del spec["selector"]
        for found in (labels, spec["template"]["metadata"]["labels"]):
            for label in [label for label in found if label.endswith(("controller-uid", "job-name"))]:
                del found[label]
    created = api.create(kind, {**_TYPE.get(kind, {}), "metadata": metadata, "spec": spec})
    api.merge_status(kind, name, metadata["namespace"], like["status"])
    return created


@contextmanager
def progress_server() -> Iterator[None]:
    """What every pod answers: a training that goes on."""
    began = time.time()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            step = int(time.time() - began)
            said = {
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
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", _PROGRESS_PORT), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["submit", "burst", "finished", "running"], help="one part")
    parser.add_argument("--times", type=int, default=30, help="jobs submitted one after another")
    parser.add_argument("--bursts", type=int, nargs="+", default=[500, 1000, 2000], help="jobs at once")
    parser.add_argument("--finished", type=int, default=1000, help="jobs that have ended")
    parser.add_argument("--running", type=int, default=200, help="jobs that run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        try:
            figure("cores", os.cpu_count() or 1, "cores")
            if options.only in (None, "submit"):
                submit(bench, options.times)
            if options.only in (None, "burst"):
                for count in options.bursts:
                    burst(bench, count)
            if options.only in (None, "running"):
                running(bench, options.running)
            if options.only in (None, "finished"):
                finished(bench, options.finished)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
