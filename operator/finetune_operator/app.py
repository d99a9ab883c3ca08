"""Kopf's watches, whose events go to the engine.

With ``on.event`` handlers only, Kopf adds no finalizer and no annotation, so neither a deletion nor an uninstall hangs.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import replace
from typing import Any

import aiohttp
import kopf

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.tables.kinds import Kind
from finetune_core import names
from finetune_kube.connection import proxy_of_environment
from finetune_operator.cluster import PAGE_SIZE, connect
from finetune_operator.engine import Engine
from finetune_operator.metrics import Metrics
from finetune_operator.server import serving
from finetune_operator.settings import Settings


async def run(settings: Settings) -> None:
    """Run the operator until SIGTERM, or until a watch fails in a way that requires a restart.

    Raises:
        asyncio.CancelledError: SIGTERM or SIGINT arrived before Kopf was started.
    """
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGTERM, signal.SIGINT):
        # Kopf replaces these handlers when it starts, which may take long if the cluster is unreachable.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    metrics = Metrics()
    async with connect(metrics) as cluster, aiohttp.ClientSession() as session:
        engine = Engine(settings, cluster, session, metrics)
        async with (
            serving(settings.listen, settings.port, metrics.registry, engine.unhealthy, engine.unready),
            engine.running(),
        ):
            # Kopf discovers resources once, when it starts; the CRD may be installed after the operator.
            await engine.synced.wait()
            identity: Any = socket.gethostname()
            await kopf.operator(
                registry=handlers(engine),
                settings=kopf_settings(),
                standalone=True,
                # By default Kopf uses the user name, which many containers do not have.
                identity=identity,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
            )


def handlers(engine: Engine) -> kopf.OperatorRegistry:
    """The handlers of Kopf; coroutines, as Kopf runs plain functions in threads."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        connection = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if connection is None or connection.proxy_url:
            return connection
        return replace(connection, proxy_url=proxy_of_environment(connection.server))

    @kopf.on.event(API_GROUP, API_VERSION, Kind.FINE_TUNE_JOB.plural, registry=registry)
    async def on_job(event: kopf.RawEvent, **_: Any) -> None:
        engine.handle(KIND, event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def on_child(event: kopf.RawEvent, **_: Any) -> None:
        engine.handle("Job", event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:
        engine.handle("Pod", event["object"], deleted=event["type"] == "DELETED")

    return registry


class _NoDiffBase(kopf.DiffBaseStorage):
    """Disables Kopf's copy of the last state of each object, which only change handlers need."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""


def kopf_settings() -> kopf.OperatorSettings:
    """Settings with which Kopf only watches FineTuneJobs and their children, and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffBase()
    # The set of resources is fixed, so Kopf does not watch CRDs and namespaces.
    settings.scanning.disabled = True
    settings.watching.chunk_size = PAGE_SIZE
    # After each event Kopf keeps a task with the whole object for this time; the default is 5 s.
    settings.queueing.idle_timeout = 0.1
    # After these the process exits and is restarted; until then the resync replaces the watch.
    settings.networking.error_backoffs = (1, 2, 4, 8)
    # Kopf 1.45 hangs at exit while another watch waits for a login. So the process is killed, which is always safe:
    # earlier than the grace period of a pod, later than the 5 s that Kopf gives its own tasks.
    settings.process.ultimate_exiting_timeout = 15
    for resource in ("jobs", "pods"):
        settings.watching.label_selectors[resource] = names.JOB_LABEL
    return settings
