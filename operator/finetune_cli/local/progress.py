"""Reads ``/progress`` of a stage on this machine."""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from finetune_api.stage import Progress

_MOST_BYTES = 65536
_TIMEOUT_SECONDS = 2.0


async def read_progress(port: int) -> Progress | None:
    """What the stage that listens on 127.0.0.1:``port`` says; None when nothing can be understood in time."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            answer = await _get(port)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].split(b" ")
        if len(status) < 2 or status[1] != b"200":
            return None
        return Progress.model_validate_json(body)
    except (OSError, TimeoutError, ValidationError):
        return None


async def _get(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        # HTTP/1.0, so that the answer is not chunked and ends with the connection.
        writer.write(b"GET /progress HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        await writer.drain()
        answer = b""
        while len(answer) < _MOST_BYTES and (part := await reader.read(_MOST_BYTES - len(answer))):
            answer += part
        return answer
    finally:
        writer.close()
