"""The operator: Kopf's watches, each handed to the engine, and nothing else.

Only ``on.event`` handlers: so Kopf adds no finalizer and no annotation, and deleting a job or uninstalling never hangs.
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
from finetune_core import names
from finetune_kube.connection import proxy_of_environment
from finetune_operator.cluster import PAGE, connected
from finetune_operator.engine import Engine
from finetune_operator.metrics import Metrics
from finetune_operator.server import serving
from finetune_operator.settings import Settings


async def run(settings: Settings) -> None:
    """Run the operator until it is told to stop, or until a watch fails in a way that only a restart mends.

    Raises:
        asyncio.CancelledError: SIGTERM or SIGINT came before there was anything to end in order.
    """
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until Kopf puts its own in their place: the cluster may be kept waiting for long.
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    metrics = Metrics()
    async with connected(metrics) as cluster, aiohttp.ClientSession() as session:
        engine = Engine(settings, cluster, session, metrics)
        async with (
            serving(settings.listen, settings.port, metrics.registry, engine.unhealthy, engine.unready),
            engine.running(),
        ):
            # Kopf looks once which resources there are: the definition of ours may come after the operator.
            await engine.synced.wait()
            identity: Any = socket.gethostname()
            await kopf.operator(
                registry=handlers(engine),
                settings=kopf_settings(),
                standalone=True,
                # Kopf would make one of the user's name, and the user of a container often has none.
                identity=identity,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
            )


def handlers(engine: Engine) -> kopf.OperatorRegistry:
    """What Kopf calls, on its event loop: a plain function would be called on a thread."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**facts: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**facts) or kopf.login_with_kubeconfig(**facts)
        if found is None or found.proxy_url:
            return found
        return replace(found, proxy_url=proxy_of_environment(found.server))

    @kopf.on.event(API_GROUP, API_VERSION, f"{KIND.lower()}s", registry=registry)
    async def on_job(event: kopf.RawEvent, **_: Any) -> None:
        engine.see(KIND, event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def on_child(event: kopf.RawEvent, **_: Any) -> None:
        engine.see("Job", event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod(event: kopf.RawEvent, **_: Any) -> None:
        engine.see("Pod", event["object"], deleted=event["type"] == "DELETED")

    return registry


class _NoDiffBase(kopf.DiffBaseStorage):
    """Kopf's memory of what an object was like, which only handlers of changes need: it copies every object it sees."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is written."""


def kopf_settings() -> kopf.OperatorSettings:
    """Kopf watches what is ours, and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffBase()
    # Resources do not come and go while it runs: so it need not watch definitions and namespaces.
    settings.scanning.disabled = True
    settings.watching.chunk_size = PAGE
    # Kopf keeps a task, and in it the whole object, for so long after each event: 5 s by default.
    settings.queueing.idle_timeout = 0.1
    # After these it ends and is started anew; until then the full look at everything stands in.
    settings.networking.error_backoffs = (1, 2, 4, 8)
    # Kopf 1.45 hangs at its end when another watch waits for a login by then: so the process is killed, which is safe
    # at any moment. Less than the grace period of a pod, more than the 5 s that it leaves its own tasks.
    settings.process.ultimate_exiting_timeout = 15
    for resource in ("jobs", "pods"):
        settings.watching.label_selectors[resource] = names.JOB_LABEL
    return settings
