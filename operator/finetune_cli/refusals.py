"""One sentence for a person when a request to the API server fails: what happened and what to do. Pure."""

from __future__ import annotations

import os
import re

from finetune_api.base import API_GROUP, KIND
from finetune_api.failures import ExitCode
from finetune_kube.errors import ApiError

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
    """A command that failed on the cluster.

    ``message`` is the sentence to print; ``code`` is the HTTP status code, 0 if the API server cannot be reached.
    """

    def __init__(self, message: str, code: int = 0, causes: list[tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.causes = causes or []
        """Field and message of each cause that the API server reported."""

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT_CODES.get(self.code, ExitCode.UNAVAILABLE if self.code >= 500 else ExitCode.INTERNAL)

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code in (0, 429) or self.code >= 500

    @property
    def field_managers(self) -> dict[str, list[str]]:
        """After a conflict: the fields that each other field manager owns."""
        managers: dict[str, list[str]] = {}
        for field, message in self.causes:
            match = _CONFLICT.search(message)
            if match:
                managers.setdefault(match["manager"], []).append(field.lstrip("."))
        return managers


def refusal(error: ApiError, host: str, namespace: str | None, name: str | None) -> ClusterError:
    """The error to print for a failed request about the FineTuneJob ``name``, or about all of them."""
    if error.code == 0:
        message = f"The cluster at {host} cannot be reached: {_connection_problem(error)}."
    else:
        message = _sentence(error, namespace, name)
    return ClusterError(message, error.code, error.causes)


def _sentence(error: ApiError, namespace: str | None, name: str | None) -> str:
    match error.code:
        case 401:
            return "The cluster rejected the credentials; log in again, or choose another --context."
        case 403:
            return _forbidden(error.message, namespace)
        case 404:
            return _not_found(error, namespace, name)
        case 422:
            causes = "; ".join(f"{field}: {text}" if field else text for field, text in error.causes)
            return f"The API server rejected {name or KIND}: {causes or error.message}"
        case code if code == 429 or code >= 500:
            return f"The API server returned {code}: {error.message.rstrip('.')}. Try again later."
    return f"The API server returned {error.code}: {error.message}"


def _connection_problem(error: ApiError) -> str:
    """Why there was no response: the text of the operating system where it has one, otherwise that of the library."""
    cause = error.__cause__
    number = getattr(getattr(cause, "os_error", cause), "errno", None)
    if isinstance(cause, TimeoutError):
        return "the request timed out"
    if number and number > 0:
        return os.strerror(number).lower()
    return str(cause).rstrip(".") or type(cause).__name__


def _forbidden(message: str, namespace: str | None) -> str:
    match = _FORBIDDEN.search(message)
    if not match:
        return f"Forbidden: {message}"
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    return (
        f"{match['user']} may not {match['verb']} {match['resource']} {where}; ask the cluster administrator for the "
        "permission, or choose another namespace with -n."
    )


def _not_found(error: ApiError, namespace: str | None, name: str | None) -> str:
    details = error.details
    if details.get("kind") == "namespaces":
        return (
            f"There is no namespace {details.get('name')}; create it with kubectl create namespace, or choose another."
        )
    if not details.get("name"):
        return (
            f"This cluster has no CRD for {KIND} of {API_GROUP}; install finetune-operator, or choose another "
            "--context."
        )
    if name is None or details.get("kind") == "pods":
        return f"The object no longer exists: {error.message}."
    return f"There is no FineTuneJob {name} in namespace {namespace}; choose another with -n, or list all with get -A."
