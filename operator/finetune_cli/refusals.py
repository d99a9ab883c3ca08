"""What to tell a person when the API server refuses a request, or cannot be asked. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from finetune_api.base import API_GROUP, KIND
from finetune_api.failures import ExitCode

FIELD_MANAGER = "finetune-cli"

_EXIT_CODES = {
    0: ExitCode.UNAVAILABLE,
    400: ExitCode.BAD_CONFIGURATION,
    401: ExitCode.PERMISSION_DENIED,
    403: ExitCode.PERMISSION_DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.BAD_CONFIGURATION,
    422: ExitCode.BAD_CONFIGURATION,
    429: ExitCode.UNAVAILABLE,
}
_FORBIDDEN = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')
_CONFLICT = re.compile(r'conflict with "(?P<manager>[^"]+)"')


class ClusterError(Exception):
    """A request that came to nothing; ``message`` is the sentence for people, ``code`` that of HTTP, 0 without one."""

    def __init__(self, message: str, code: int = 0, status: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self._status = status or {}

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES.get(self.code, ExitCode.UNAVAILABLE if self.code >= 500 else ExitCode.INTERNAL)

    @property
    def passing(self) -> bool:
        """Whether it may be otherwise in a moment."""
        return self.code in (0, 429) or self.code >= 500

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Field and message of everything that the API server found wrong."""
        found = self._status.get("details", {}).get("causes") or ()
        return [(str(cause.get("field", "")), str(cause.get("message", ""))) for cause in found]

    @property
    def holders(self) -> dict[str, list[str]]:
        """After a conflict: the fields that somebody else has set, by who that is."""
        holders: dict[str, list[str]] = {}
        for field, message in self.causes:
            match = _CONFLICT.search(message)
            if match:
                holders.setdefault(match["manager"], []).append(field.lstrip("."))
        return holders


def refusal(code: int, content: bytes, namespace: str | None, name: str | None) -> ClusterError:
    """The error for an answer that is no success, about the FineTuneJob ``name`` or all of them."""
    try:
        status = json.loads(content)
        message = str(status.get("message", ""))
    except (ValueError, AttributeError):
        status, message = {}, content[:200].decode(errors="replace").strip()
    return ClusterError(_sentence(code, message, status, namespace, name), code, status)


def _sentence(code: int, message: str, status: Mapping[str, Any], namespace: str | None, name: str | None) -> str:
    match code:
        case 401:
            return "The cluster does not accept these credentials; log in to it again, or choose another --context."
        case 403:
            return _forbidden(message, namespace)
        case 404:
            return _missing(message, status, namespace, name)
        case 422:
            error = ClusterError(message, code, status)
            found = "; ".join(f"{field}: {text}" if field else text for field, text in error.causes)
            return f"The API server refuses {name or KIND}: {found or message}"
        case _ if code == 429 or code >= 500:
            return f"The API server answers {code}: {message.rstrip('.')}. Try again in a moment."
    return f"The API server answers {code}: {message}"


def _forbidden(message: str, namespace: str | None) -> str:
    match = _FORBIDDEN.search(message)
    if not match:
        return f"Not allowed: {message}"
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    return (
        f"{match['user']} may not {match['verb']} {match['resource']} {where}; ask who runs the cluster for the right, "
        "or name another namespace with -n."
    )


def _missing(message: str, status: Mapping[str, Any], namespace: str | None, name: str | None) -> str:
    details = status.get("details") or {}
    if details.get("kind") == "namespaces":
        return f"There is no namespace {details.get('name')}; make it with kubectl create namespace, or name another."
    if not details.get("name"):
        return (
            f"This cluster does not know {KIND} of {API_GROUP}; install finetune-operator there first, or choose "
            "another --context."
        )
    if name is None or details.get("kind") == "pods":
        return f"It is gone: {message}."
    return f"There is no FineTuneJob {name} in namespace {namespace}; name another with -n, or see all with get -A."
