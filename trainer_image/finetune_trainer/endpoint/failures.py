"""Turn what an endpoint does instead of answering into a decision: wait and ask again, give the question up, or fail.

Messages of the endpoint are quoted, except where it refuses the key, because they can contain a part of it.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.certificates import cause_of_refusal
from finetune_trainer.endpoint.parsing import Malformed, error_message

if TYPE_CHECKING:
    import httpx2
    import openai

KEY_VARIABLE = "OPENAI_API_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TRANSIENT = (408, 409, 425, 429)
_WRONG_ADDRESS = (404, 405, 410)
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes of OpenAI with status 429 that waiting does not help."""


@dataclass(frozen=True)
class Trouble:
    """A request that was not answered."""

    problem: str
    """A clause that follows ``the endpoint``."""
    again: bool
    """Whether the same request may be answered later."""
    wait: float | None = None
    """Seconds that the endpoint asks to wait."""
    limited: bool = False
    """Whether the endpoint answers too many requests (429), which concerns all questions."""
    unreachable: bool = False
    """Whether there is no connection, which concerns all questions."""
    reason: Reason = Reason.UNAVAILABLE
    """Why the stage fails if no question is answered."""


def trouble_of(error: Exception, url: str, model: str) -> Trouble:
    """What ``error`` means.

    Raises:
        StageFailure: PermissionDenied, NotFound or BadConfiguration: no question can be answered.
    """
    import openai

    if isinstance(error, Malformed):
        return Trouble(str(error), again=True, reason=Reason.BAD_CONFIGURATION)
    if isinstance(error, openai.APIStatusError):
        return _status(error, url, model)
    if isinstance(error, openai.APITimeoutError) and not _never_connected(error):
        return Trouble("does not answer in time", again=True)
    if isinstance(error, openai.APIConnectionError):
        return _connection(error, url)
    raise error


def _status(error: openai.APIStatusError, url: str, model: str) -> Trouble:
    status, quoted = error.status_code, _quoted(error.response)
    if status == 401:
        raise StageFailure(
            Reason.PERMISSION_DENIED,
            f"The endpoint {url} refuses the key (401); set {KEY_VARIABLE} in the Secret of its secretRef, or in the "
            "environment of finetune run",
        )
    if status in _WRONG_ADDRESS:
        raise StageFailure(
            Reason.NOT_FOUND,
            f"The endpoint {url} has no model {model}, or no chat/completions ({status}{quoted}); correct the url, "
            "which usually ends with /v1, or the model",
        )
    if status == 403:
        # Some services refuse single prompts so.
        return Trouble(f"refuses access (403{quoted})", again=False, reason=Reason.PERMISSION_DENIED)
    if status == 402 or (status == 429 and _code(error.response) in _NO_CREDIT):
        raise StageFailure(
            Reason.PERMISSION_DENIED,
            f"The account at {url} has no credit left ({status}{quoted}); add credit, then run again",
        )
    if status in _TRANSIENT or status >= 500:
        what = "takes no more requests" if status == 429 else "fails"
        wait = retry_after(error.response.headers, time.time())
        return Trouble(f"{what} ({status}{quoted})", again=True, wait=wait, limited=status == 429)
    return Trouble(f"refuses the request ({status}{quoted})", again=False, reason=Reason.BAD_CONFIGURATION)


def _connection(error: openai.APIConnectionError, url: str) -> Trouble:
    causes: list[BaseException] = []
    cause: BaseException | None = error.__cause__
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    host = url.partition("://")[2].partition("/")[0]
    if refusal := next((found for one in causes if (found := cause_of_refusal(str(one), host))), None):
        raise StageFailure(Reason.BAD_CONFIGURATION, f"Cannot ask {url}: {refusal}")
    if proxy := _refusal_of_proxy(error):
        return Trouble(
            f"is not reached, because the proxy in HTTPS_PROXY or HTTP_PROXY refuses it ({proxy})",
            again=True,
            unreachable=True,
        )
    if any(isinstance(one, socket.gaierror) for one in causes):
        return Trouble("is not found, because its host name does not resolve", again=True, unreachable=True)
    if _never_connected(error):
        pod = ", and in a pod this address is the pod itself" if _is_this_pod(url) else ""
        return Trouble(f"does not accept connections{pod}", again=True, unreachable=True)
    return Trouble("ends the connection in the middle of the answer", again=True)


def _never_connected(error: openai.APIConnectionError) -> bool:
    import httpx2

    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol)


def _refusal_of_proxy(error: openai.APIConnectionError) -> str:
    """What a proxy has answered instead of a connection; empty if it was none."""
    import httpx2

    return str(error.__cause__) if isinstance(error.__cause__, httpx2.ProxyError) else ""


def _is_this_pod(url: str) -> bool:
    """Whether this is a pod, and the address of a server in it, such as that of a manifest for one machine."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and urlsplit(url).hostname in _LOOPBACK


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that ``Retry-After`` asks to wait, which has seconds or a date; None without a valid one.

    Args:
        headers: Headers of the response.
        now: Unix time in seconds.
    """
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _document(response: httpx2.Response) -> object:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _code(response: httpx2.Response) -> object:
    document = _document(response)
    error = document.get("error") if isinstance(document, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _quoted(response: httpx2.Response) -> str:
    """The message in a response, to follow a status."""
    message = error_message(_document(response))
    return f": {message}" if message else ""
