"""The floor: the requests that every job needs, sent by a plain client without an operator."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.operator.client import PlainClient, in_parallel
from bench.operator.testbed import Bench, per, remove
from finetune_api.job import FineTuneJob
from finetune_core.reconcile import plan
from finetune_core.runs import Observed
from finetune_operator.resources.job import stage_job
from finetune_operator.settings import TrainerSettings
from tests import builders

_STATUS = json.loads(Path(__file__).with_name("floor_status.json").read_text())
"""The status of a job whose first stage has started, as the operator at commit 62dc198 writes it."""
_NAME, _UID = "job-00000", "00000000-0000-4000-8000-000000000000"
"""Placeholders for a name and a uid in a template, of the same length."""


def name_of(number: int) -> str:
    return f"job-{number:05}"


class Bodies:
    """The encoded request bodies for the jobs of a namespace."""

    def __init__(self, namespace: str) -> None:
        document = builders.manifest()
        metadata = {"name": _NAME, "namespace": namespace}
        job = document | {"metadata": metadata | {"uid": _UID, "generation": 1}}
        first = plan(FineTuneJob.model_validate_json(json.dumps(job)), Observed(), datetime.now(UTC)).start[0]
        kind = {name: document[name] for name in ("apiVersion", "kind")}
        self._job = _encoded(document | {"metadata": metadata})
        self._child = _encoded(stage_job(first, TrainerSettings(image="finetune-trainer:test")))
        self._status = _encoded({**kind, "metadata": metadata, "status": _STATUS})

    def job(self, name: str) -> bytes:
        return self._job.replace(_NAME.encode(), name.encode())

    def child(self, name: str, uid: str) -> bytes:
        """The first Job of a job, as the operator builds it."""
        return self._child.replace(_NAME.encode(), name.encode()).replace(_UID.encode(), uid.encode())

    def status(self, name: str) -> bytes:
        return self._status.replace(_NAME.encode(), name.encode())


def child_name(name: str) -> str:
    return f"{name}-r1-prepare-1"


@dataclass(frozen=True)
class Floor:
    """The result of one round of the floor."""

    jobs_per_second: float
    cpu: dict[str, float]
    """CPU seconds of each process, per job."""


async def floor(bench: Bench, count: int) -> Floor:
    """Send the requests of ``count`` jobs."""
    namespace = bench.namespace()
    bodies = Bodies(namespace)

    async with PlainClient(bench.plane) as plain:

        async def send(number: int) -> None:
            name = name_of(number)
            made = json.loads(await plain.apply("FineTuneJob", namespace, name, bodies.job(name)))
            child = bodies.child(name, made["metadata"]["uid"])
            await plain.apply("Job", namespace, child_name(name), child)
            await plain.apply("FineTuneJob", namespace, name, bodies.status(name), "/status")

        before, began = bench.cpu(), time.monotonic()
        await in_parallel(send, range(count))
        seconds, after = time.monotonic() - began, bench.cpu()
        await remove(plain, None, namespace)
    return Floor(count / seconds, per(count, after, before))


async def single_applies(bench: Bench, times: int) -> list[float]:
    """Seconds of each of ``times`` sequential applies of a Job. No operator may run."""
    namespace = bench.namespace()
    bodies, seconds = Bodies(namespace), []
    async with PlainClient(bench.plane) as plain:
        for number in range(times):
            name = name_of(number)
            body = bodies.child(name, _UID)
            began = time.monotonic()
            await plain.apply("Job", namespace, child_name(name), body)
            seconds.append(time.monotonic() - began)
        await remove(plain, None, namespace)
    return seconds


def _encoded(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
