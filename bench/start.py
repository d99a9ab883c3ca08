"""The time from ``kubectl apply`` to the first training step, split into its parts, on the running cluster.

Run ``make cluster``, then ``python -m bench.start [--jobs 3]``. Each job is minimal: a tiny encoder, two workers,
ZeRO-2. Prints one JSON line for each figure, the median over the jobs:

- ``start.operator``: apply → Job of prepare, plus the condition Complete of prepare → Job of train. The target is 1 s.
- ``start.scheduling``, ``start.container``: for the slower of the two training pods, Job → node → first process.
- ``start.host``, ``.imports``, ``.data`` (in parallel with the imports), ``.model``, ``.deepspeed``: from the first
  process of train to its first step.
- ``start.prepare``: the whole prepare stage.
- ``start.trainer``: first process → first step, and ``start.bare``: the same for a script in two pods of the same image
  that imports torch and transformers and runs one step. ``start.trainer_over_bare``: the difference. The target is 5 s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import statistics
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import kubernetes
import urllib3

from bench.train import report
from tests.apiserver.control_plane import wait_until
from tests.cluster import cluster, control, images
from tests.cluster.curves import long_job
from tests.cluster.daemons import started_at
from tests.cluster.inputs import upload_inputs
from tests.cluster.node import node_of
from tests.cluster.tenant import JOB_LABEL, Tenant

Times = dict[str, float]
"""Unix times in seconds, or durations, by name."""

_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) INFO finetune_trainer: (.*)$", flags=re.MULTILINE)
_LOG_LINES = {
    "host": "train, attempt 1",
    "imports": "importing torch, transformers and deepspeed",
    "data": "fetched model, data and checkpoint",
    "model": "loading the model",
    "deepspeed": "starting the training processes",
    "training": "training",
}
"""Prefixes of the log lines of the train stage, by the name of the moment that each marks."""

_BARE = """
import os, time
import torch, transformers
config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = transformers.AutoModelForSequenceClassification.from_config(config)
optimizer = torch.optim.AdamW(model.parameters())
model(input_ids=torch.ones(4, 16, dtype=torch.long), labels=torch.zeros(4, dtype=torch.long)).loss.backward()
optimizer.step()
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
print(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=3)
    jobs = parser.parse_args().jobs
    if not cluster.is_up():
        raise SystemExit("bench.start needs a running cluster; start one with: make cluster")
    upload_inputs()
    tenant = Tenant(f"bench-{secrets.token_hex(3)}").create()
    try:
        runs = [measure(tenant, f"start-{number}") for number in range(jobs)]
        bare = [measure_bare(tenant, f"bare-{number}") for number in range(jobs)]
    finally:
        tenant.delete()
    for name in runs[0]:
        seconds = [run[name] for run in runs]
        report(f"start.{name}", statistics.median(seconds), "s", minimum=min(seconds), maximum=max(seconds))
    report("start.bare", statistics.median(bare), "s", minimum=min(bare), maximum=max(bare))
    over = statistics.median(run["trainer"] for run in runs) - statistics.median(bare)
    report("start.trainer_over_bare", over, "s")


def measure(tenant: Tenant, name: str) -> Times:
    """The duration of each part of one job's start."""
    with Watch(tenant.name) as watch:
        applied = time.time()
        tenant.apply(name, long_job())
        tenant.until_step(name, 1)
        pods = [tenant.worker(name, index) for index in range(2)]
        started = max(_started(pod) for pod in pods)
        logged = _log_times(tenant, pods[0])
        tenant.api.delete("FineTuneJob", name, tenant.name)
        wait_until(tenant.is_clean, "the job is gone", 120, 0.2)
    seen = watch.seen
    train, prepare = f"{name}-r1-train-1", f"{name}-r1-prepare-1"
    scheduled = max(seen[f"scheduled {pod['metadata']['name']}"] for pod in pods)
    return {
        "operator": seen[f"job {prepare}"] - applied + seen[f"job {train}"] - seen[f"complete {prepare}"],
        "prepare": seen[f"complete {prepare}"] - seen[f"job {prepare}"],
        "scheduling": scheduled - seen[f"job {train}"],
        "container": started - scheduled,
        "host": logged["imports"] - started,
        "imports": logged["model"] - logged["imports"],
        "data": logged["data"] - logged["host"],
        "model": logged["deepspeed"] - logged["model"],
        "deepspeed": logged["training"] - logged["deepspeed"],
        "trainer": logged["training"] - started,
        "total": logged["training"] - applied,
    }


def measure_bare(tenant: Tenant, name: str) -> float:
    """Seconds from first process to the end of the first step of a bare script, for the slower of two pods."""
    limits = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "3Gi"}}
    security: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "bare",
        "image": images.image("finetune-trainer"),
        "command": ["python", "-c", _BARE],
        # As in a pod of ours: one thread per process, because there are two processes on two cores.
        "env": [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
        "resources": limits,
        "securityContext": security,
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    template = {"metadata": {"labels": {JOB_LABEL: name}}, "spec": pod}
    spec = {"completions": 2, "parallelism": 2, "backoffLimit": 0, "template": template}
    metadata = {"name": name, "namespace": tenant.name}
    tenant.api.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}, "bench")

    def done() -> bool:
        return [pod["status"]["phase"] for pod in tenant.pods(name)] == ["Succeeded"] * 2

    wait_until(done, "the bare pods end", 180, 0.2)
    return max(float(cluster.kubectl("logs", "-n", tenant.name, _name(pod)).split()[-1]) for pod in tenant.pods(name))


class Watch:
    """Watches a namespace and records when Jobs are created and completed, and when pods are scheduled."""

    def __init__(self, namespace: str) -> None:
        self.seen: Times = {}
        client = kubernetes.config.new_client_from_config(str(control.kubeconfig()))
        batch, core = kubernetes.client.BatchV1Api(client), kubernetes.client.CoreV1Api(client)
        self._watches = (kubernetes.watch.Watch(), kubernetes.watch.Watch())
        self._threads = [
            threading.Thread(target=self._follow, args=(watch, ask, namespace), daemon=True)
            for watch, ask in zip(self._watches, (batch.list_namespaced_job, core.list_namespaced_pod), strict=True)
        ]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.stop()

    def _follow(self, watch: Any, ask: Any, namespace: str) -> None:
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # Closed while it waits for an event.
            for event in watch.stream(ask, namespace):
                found = event["raw_object"]
                for moment in _moments(found):
                    self.seen.setdefault(f"{moment} {_name(found)}", time.time())


def _moments(found: Mapping[str, Any]) -> list[str]:
    conditions = {c["type"] for c in found["status"].get("conditions") or () if c["status"] == "True"}
    if found["kind"] == "Job":
        return ["job", *(["complete"] if "Complete" in conditions else [])]
    return ["scheduled"] if "PodScheduled" in conditions else []


def _started(pod: dict[str, Any]) -> float:
    """The start time of the first process of a running pod."""
    identity = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    ticks = started_at(node_of(pod).task(identity))
    assert ticks is not None, "the container has no process"
    # Relative to CLOCK_BOOTTIME, the clock of the ticks: the boot time in /proc/stat has a resolution of one second.
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _log_times(tenant: Tenant, pod: Mapping[str, Any]) -> Times:
    """When the pod logged each of the moments in ``_LOG_LINES``."""
    log = cluster.kubectl("logs", "-n", tenant.name, _name(pod))
    times: Times = {}
    for at, text in _LINE.findall(log):
        for moment, beginning in _LOG_LINES.items():
            if text.startswith(beginning):
                # Containers log in UTC.
                times.setdefault(moment, datetime.strptime(f"{at}+0000", "%Y-%m-%d %H:%M:%S,%f%z").timestamp())
    return times


def _name(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["name"])


if __name__ == "__main__":
    main()
