"""One control plane for the whole run, and an operator on it, of this checkout or of another."""

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

from bench.operator.client import NotInTime, Plain
from bench.operator.series import Asked, served
from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import ControlPlane, clean_environment, wait_until
from tests.apiserver.desk import Operator

PATIENCE_SECONDS = 300.0
_OPENAPI = "/openapi/v3/apis/finetune.dev/v1alpha1"
_KINDS = ("FineTuneJob", "Job", "Pod", "Event")


class Ended(Exception):
    """A process has ended that was not told to."""


@dataclass(frozen=True)
class Side:
    """An operator to measure: the Python of its checkout."""

    python: str = sys.executable
    label: str = ""
    """What its figures carry, where there are several."""

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
        """Have the API server serve the CustomResourceDefinition that the operator of ``side`` comes with.

        ``for_floor``: with the status as it was defined at commit 62dc198, so that a cheaper status write of the
        operator does not make the floor cheaper too.
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
        # The condition Established stays true when a definition changes. What is served tells by its description.
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
        """A new one."""
        name = f"bench-{next(self._numbers)}"
        self.admin.create("Namespace", {"metadata": {"name": name}})
        return name

    @contextmanager
    def operator(self, side: Side) -> Iterator[Operator]:
        """An operator that has seen all that exists, until the end of the block."""
        self.install(side)
        self.start_operator(side)
        yield self.running
        # After an error it need not end in order: `close` kills it.
        self.stop_operator()

    @property
    def running(self) -> Operator:
        """The operator that runs."""
        assert self._operator
        return self._operator

    def start_operator(self, side: Side) -> None:
        # As it is installed: progress every 15 s, a full look every 5 minutes.
        settings = {"progressSeconds": 15, "resyncSeconds": 300}
        directory = self._directory / "operator"
        self._operator = operator = Operator(self.plane.kubeconfig, directory, python=side.python, **settings)
        operator.start(wait=False)

        def ready() -> bool:
            self.check()
            return operator.http("/readyz")[0] == 200

        wait_until(ready, "the operator is ready", 120)

    def check(self) -> None:
        """Raises Ended when a process that must run does not."""
        for name, pid in self._pids().items():
            check(name, pid, self._operator if name == "operator" else None)

    def stop_operator(self) -> None:
        if self._operator:
            self._operator.stop()
            self._operator = None

    def cpu(self) -> dict[str, float]:
        """Seconds of user and system time that each process has used."""
        times = {name: psutil.Process(pid).cpu_times() for name, pid in self._pids().items()}
        return {name: used.user + used.system for name, used in times.items()}

    def _pids(self) -> dict[str, int]:
        pids = {**self.plane.pids, "client": psutil.Process().pid}
        return pids | ({"operator": self._operator.pid} if self._operator else {})

    def memory(self) -> tuple[float, float]:
        """What the operator holds, and the most that it held, in MB."""
        status = Path(f"/proc/{self.running.pid}/status").read_text()
        now, most = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) for name in ("VmRSS", "VmHWM"))
        return now * 1024 / 1e6, most * 1024 / 1e6

    async def requests(self, plain: Plain) -> dict[str, float]:
        """What the API server was asked for so far by anybody."""
        return served((await plain.send("GET", "/metrics")).decode())


def _manage_each_field_of_the_status(crd: dict[str, Any]) -> None:
    """Undo in the schema what makes the status one atomic value, whose fields the API server need not track."""
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    status.pop("x-kubernetes-map-type", None)
    for name, key in (("conditions", "type"), ("stages", "name")):
        status["properties"][name] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def check(name: str, pid: int, operator: Operator | None = None) -> None:
    """Raises Ended when a process that was started does not run any more."""
    if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
        log = operator.log().strip().splitlines() if operator else []
        raise Ended(f"{name} has ended" + (f"; its log ends with: {log[-1]}" if log else ""))


async def asked(plain: Plain, operator: Operator) -> Asked:
    """What the operator says of itself.

    Raises:
        Ended: It does not run any more.
    """
    check("operator", operator.pid, operator)
    return Asked(await plain.text(f"http://127.0.0.1:{operator.port}/metrics"))


async def quiet(plain: Plain, operator: Operator, jobs: int) -> float:
    """Wait until ``jobs`` have started, nothing is queued and nothing more is written; since when that is.

    Raises:
        NotInTime: It does not come to that.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    writes, since = -1.0, 0.0
    while time.monotonic() < deadline:
        now = time.monotonic()
        said = await asked(plain, operator)
        if said.queued or said.waiting or said.jobs != jobs:
            writes = -1.0
        elif said.writes != writes:
            writes, since = said.writes, now
        else:
            return since
        await asyncio.sleep(0.2)
    raise NotInTime(f"not within {PATIENCE_SECONDS:.0f} s: {jobs} jobs have started and nothing is queued")


async def no_writes(plain: Plain, operator: Operator, seconds: float) -> None:
    """Wait until the operator has written nothing for ``seconds``; it may read as much as it likes.

    Raises:
        NotInTime: It does not come to that.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    writes, since = -1.0, 0.0
    while time.monotonic() < deadline:
        said = await asked(plain, operator)
        if said.writes != writes:
            writes, since = said.writes, time.monotonic()
        elif time.monotonic() - since >= seconds:
            return
        await asyncio.sleep(0.5)
    raise NotInTime(f"not within {PATIENCE_SECONDS:.0f} s: the operator writes nothing for {seconds:.0f} s")


async def remove(plain: Plain, operator: Operator | None, *namespaces: str) -> None:
    """Delete all that is in the namespaces: nobody collects garbage here."""
    for kind in _KINDS:
        for namespace in namespaces:
            await plain.delete_all(kind, namespace)
        if kind == "FineTuneJob" and operator:
            # It would create again the Job of a job of whose end it has not heard.
            await quiet(plain, operator, jobs=0)


def per(count: float, after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was added to each entry, by ``count``."""
    return {name: (value - before.get(name, 0.0)) / count for name, value in after.items()}
