"""The control plane of a run, and the operator on it, from this checkout or from another one."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.operator.client import PlainClient, WaitTimeout
from bench.operator.series import OperatorMetrics, api_server_requests
from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import ControlPlane, clean_environment, wait_until
from tests.apiserver.desk import Operator

WAIT_SECONDS = 300.0
_OPENAPI = "/openapi/v3/apis/finetune.dev/v1alpha1"
_KINDS = ("FineTuneJob", "Job", "Pod", "Event")


class ProcessEnded(Exception):
    """A process ended unexpectedly."""


@dataclass(frozen=True)
class Side:
    """An operator to measure, given by the Python of its checkout."""

    python: str = sys.executable
    label: str = ""
    """Added to its figures if several operators are compared."""

    @property
    def labels(self) -> dict[str, str]:
        return {"operator": self.label} if self.label else {}

    def __str__(self) -> str:
        return f" ({self.label})" if self.label else ""


class Bench:
    """A control plane, and at most one operator on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.plane = ControlPlane(directory / "plane")
        self._operator: Operator | None = None
        self._installed = ""
        self._numbers = itertools.count(1)

    def start(self) -> None:
        self.plane.start()
        self.admin = Api(self.plane.url, self.plane.ca, self.plane.admin_token)

    def close(self) -> None:
        if self._operator:
            self._operator.kill()
        self.plane.stop()

    def install(self, side: Side, *, for_floor: bool = False) -> None:
        """Install the CustomResourceDefinition of ``side``, and wait until the API server serves it.

        ``for_floor``: use the status schema of commit 62dc198, so that a cheaper status write of the operator does not
        make the floor cheaper too.
        """
        made = subprocess.run(
            [side.python, "-m", "finetune_api.crd"], check=True, capture_output=True, text=True, env=clean_environment()
        ).stdout
        crd = yaml.safe_load(made)
        if for_floor:
            _manage_each_field_of_the_status(crd)
        digest = hashlib.sha256(json.dumps(crd).encode()).hexdigest()[:12]
        if digest == self._installed:
            return
        # The condition Established stays true when a CRD changes. The description shows which version is served.
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        schema["description"] = f"{schema.get('description', '')} ({digest})"
        self.admin.apply(crd, force="true")

        def served() -> bool:
            try:
                return digest in json.dumps(self.admin.request("GET", _OPENAPI))
            except Refused as error:
                if error.code == 404:
                    return False
                raise

        wait_until(served, "the CustomResourceDefinition is served", 60)
        self._installed = digest

    def namespace(self) -> str:
        """Create a namespace and return its name."""
        name = f"bench-{next(self._numbers)}"
        self.admin.create("Namespace", {"metadata": {"name": name}})
        return name

    @contextmanager
    def operator(self, side: Side) -> Iterator[Operator]:
        """Run an operator whose caches are synced, until the end of the block."""
        self.install(side)
        self.start_operator(side)
        yield self.running
        # After an error, `close` kills it.
        self.stop_operator()

    @property
    def running(self) -> Operator:
        """The running operator."""
        assert self._operator
        return self._operator

    def start_operator(self, side: Side) -> None:
        # The chart's defaults: read progress every 15 s, resync every 5 minutes.
        settings = {"progressSeconds": 15, "resyncSeconds": 300}
        directory = self._directory / "operator"
        self._operator = operator = Operator(self.plane.kubeconfig, directory, python=side.python, **settings)
        operator.start(wait=False)

        def ready() -> bool:
            self.check()
            return operator.http("/readyz")[0] == 200

        wait_until(ready, "the operator is ready", 120)

    def check(self) -> None:
        """Raise ProcessEnded if one of the processes has ended."""
        for name, pid in self._pids().items():
            check(name, pid, self._operator if name == "operator" else None)

    def stop_operator(self) -> None:
        if self._operator:
            self._operator.stop()
            self._operator = None

    def cpu(self) -> dict[str, float]:
        """CPU seconds, user and system, of each process."""
        times = {name: psutil.Process(pid).cpu_times() for name, pid in self._pids().items()}
        return {name: used.user + used.system for name, used in times.items()}

    def _pids(self) -> dict[str, int]:
        pids = {**self.plane.pids, "client": psutil.Process().pid}
        return pids | ({"operator": self._operator.pid} if self._operator else {})

    def memory(self) -> tuple[float, float]:
        """Resident memory of the operator, current and peak, in MB."""
        status = Path(f"/proc/{self.running.pid}/status").read_text()
        now, most = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) for name in ("VmRSS", "VmHWM"))
        return now * 1024 / 1e6, most * 1024 / 1e6

    async def requests(self, plain: PlainClient) -> dict[str, float]:
        """Requests that the API server has received from all clients."""
        return api_server_requests((await plain.send("GET", "/metrics")).decode())


def _manage_each_field_of_the_status(crd: dict[str, Any]) -> None:
    """Make the status schema non-atomic, so that the API server tracks the manager of each field."""
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    status.pop("x-kubernetes-map-type", None)
    for name, key in (("conditions", "type"), ("stages", "name")):
        status["properties"][name] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def check(name: str, pid: int, operator: Operator | None = None) -> None:
    """Raise ProcessEnded if the process has ended."""
    if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
        log = operator.log().strip().splitlines() if operator else []
        raise ProcessEnded(f"{name} has ended" + (f"; its log ends with: {log[-1]}" if log else ""))


async def operator_metrics(plain: PlainClient, operator: Operator) -> OperatorMetrics:
    """Read the metrics of the operator.

    Raises:
        ProcessEnded: The operator has ended.
    """
    check("operator", operator.pid, operator)
    return OperatorMetrics(await plain.text(f"http://127.0.0.1:{operator.port}/metrics"))


async def wait_until_settled(plain: PlainClient, operator: Operator, jobs: int) -> float:
    """Wait until ``jobs`` have started, the queue is empty and no write follows; return when that began.

    Raises:
        WaitTimeout: The wait timed out.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    writes, since = -1.0, 0.0
    while time.monotonic() < deadline:
        now = time.monotonic()
        metrics = await operator_metrics(plain, operator)
        if metrics.queued or metrics.waiting or metrics.jobs != jobs:
            writes = -1.0
        elif metrics.writes != writes:
            writes, since = metrics.writes, now
        else:
            return since
        await asyncio.sleep(0.2)
    raise WaitTimeout(f"timed out after {WAIT_SECONDS:.0f} s: {jobs} jobs have started and the queue is empty")


async def wait_without_writes(plain: PlainClient, operator: Operator, seconds: float) -> None:
    """Wait until the operator has sent no write for ``seconds``. Reads are ignored.

    Raises:
        WaitTimeout: The wait timed out.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    writes, since = -1.0, 0.0
    while time.monotonic() < deadline:
        metrics = await operator_metrics(plain, operator)
        if metrics.writes != writes:
            writes, since = metrics.writes, time.monotonic()
        elif time.monotonic() - since >= seconds:
            return
        await asyncio.sleep(0.5)
    raise WaitTimeout(f"timed out after {WAIT_SECONDS:.0f} s: the operator sends no write for {seconds:.0f} s")


async def remove(plain: PlainClient, operator: Operator | None, *namespaces: str) -> None:
    """Delete all objects in the namespaces, because no garbage collector runs."""
    for kind in _KINDS:
        for namespace in namespaces:
            await plain.delete_all(kind, namespace)
        if kind == "FineTuneJob" and operator:
            # Until it observes the deletion, the operator would create the Job again.
            await wait_until_settled(plain, operator, jobs=0)


def per(count: float, after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """The increase of each entry, divided by ``count``."""
    return {name: (value - before.get(name, 0.0)) / count for name, value in after.items()}
