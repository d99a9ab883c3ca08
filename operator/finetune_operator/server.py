"""``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Check = Callable[[], str | None]
"""Returns the problem, or None."""


@asynccontextmanager
async def serving(
    listen: str, port: int, registry: CollectorRegistry, healthy: Check, ready: Check
) -> AsyncIterator[None]:
    """Serve while the context is open. A response shows that the event loop is alive.

    Raises:
        OSError: The port is in use.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread: the scores of 5,000 jobs take a third of a second.
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    def answer(check: Check) -> Callable[[web.Request], web.Response]:
        def handle(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

        return handle

    async def healthz(request: web.Request) -> web.Response:
        return answer(healthy)(request)

    async def readyz(request: web.Request) -> web.Response:
        return answer(ready)(request)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, listen, port).start()
        yield
    finally:
        await runner.cleanup()
