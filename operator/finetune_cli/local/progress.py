"""Reads ``/progress`` of a stage that runs on this machine."""

from __future__ import annotations

import aiohttp

from finetune_api.stage import Progress
from finetune_core.progress import MAX_PROGRESS_BYTES, parse_progress

_TIMEOUT = aiohttp.ClientTimeout(total=2)


async def read_progress(session: aiohttp.ClientSession, port: int) -> Progress | None:
    """The progress that the stage serves on 127.0.0.1:``port``; None if there is no valid response in time."""
    url = f"http://127.0.0.1:{port}/progress"
    try:
        async with session.get(url, timeout=_TIMEOUT, allow_redirects=False) as response:
            if response.status != 200:
                return None
            content = b""
            async for part in response.content.iter_any():
                content += part
                if len(content) >= MAX_PROGRESS_BYTES:
                    return None
            return parse_progress(content)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
