"""A small synchronous Kubernetes client for tests; objects are plain dictionaries."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

_PATHS = {
    "FineTuneJob": ("/apis/finetune.dev/v1alpha1", "finetunejobs"),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "Event": ("/api/v1", "events"),
    "Namespace": ("/api/v1", "namespaces"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "MutatingAdmissionPolicy": ("/apis/admissionregistration.k8s.io/v1", "mutatingadmissionpolicies"),
    "MutatingAdmissionPolicyBinding": ("/apis/admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings"),
    "ValidatingAdmissionPolicy": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
    "ValidatingAdmissionPolicyBinding": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
}

APPLY, MERGE, JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"


class Refused(Exception):
    """A response of the API server that is not a success."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        self.code = code
        self.reason = status.get("reason", "")
        self.message = status.get("message", "")
        super().__init__(f"{code} {self.reason}: {self.message}")


class Api:
    """One user of the API server. Each thread has its own connection."""

    def __init__(self, url: str, ca: Path, token: str) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.check_hostname = False
        self._token = token
        self._local = threading.local()

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        return self.request("GET", self.path(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        """The object; None if it does not exist."""
        try:
            return self.get(kind, name, namespace)
        except Refused as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, namespace: str = "", **query: str) -> list[dict[str, Any]]:
        return list(self.request("GET", self.path(kind, namespace), query=query)["items"])

    def create(self, kind: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        path = self.path(kind, body["metadata"].get("namespace", ""))
        return self.request("POST", path, body, query=query)

    def apply(self, body: Mapping[str, Any], manager: str = "kubectl", **query: str) -> dict[str, Any]:
        metadata = body["metadata"]
        path = self.path(body["kind"], metadata.get("namespace", ""), metadata["name"])
        return self.request("PATCH", path, body, APPLY, {"fieldManager": manager, **query})

    def merge(self, kind: str, name: str, namespace: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        return self.request("PATCH", self.path(kind, namespace, name), body, MERGE, query)

    def merge_status(self, kind: str, name: str, namespace: str, status: Mapping[str, Any]) -> dict[str, Any]:
        return self.request("PATCH", self.path(kind, namespace, name) + "/status", {"status": status}, MERGE)

    def delete(self, kind: str, name: str, namespace: str = "", **options: Any) -> None:
        try:
            self.request("DELETE", self.path(kind, namespace, name), options or None)
        except Refused as error:
            if error.code != 404:
                raise

    def token_of(self, account: str, namespace: str) -> str:
        """A token of a service account."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = f"{self.path('ServiceAccount', namespace, account)}/token"
        return str(self.request("POST", path, body)["status"]["token"])

    def path(self, kind: str, namespace: str = "", name: str = "") -> str:
        group, resource = _PATHS[kind]
        place = f"/namespaces/{namespace}" if namespace and kind != "Namespace" else ""
        return f"{group}{place}/{resource}" + (f"/{name}" if name else "")

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        *,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """One request; a connection that the server has closed is reopened.

        Raises:
            Refused: The answer is no success.
        """
        content = None if body is None else json.dumps(body)
        return self.request_text(method, path, content, query, content_type=content_type, accept=accept)

    def request_text(
        self,
        method: str,
        path: str,
        content: str | None,
        query: Mapping[str, str] | None = None,
        *,
        content_type: str = APPLY,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """One request with a raw body, such as YAML."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type, "Accept": accept}
        url = path + (f"?{urlencode(query)}" if query else "")
        encoded = None if content is None else content.encode()
        for last in (False, True):
            try:
                connection = self._connection()
                connection.request(method, url, encoded, headers)
                response = connection.getresponse()
                answer = json.loads(response.read() or b"{}")
                break
            except (http.client.HTTPException, ConnectionError, ssl.SSLError):
                self._local.connection = None
                if last:
                    raise
        if not 200 <= response.status < 300:
            raise Refused(response.status, answer)
        return dict(answer)

    def _connection(self) -> http.client.HTTPSConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=30, context=self._context)
            self._local.connection = connection
        return connection


def conditions(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions of any object by type."""
    return {condition["type"]: condition for condition in found.get("status", {}).get("conditions", ())}


def items(*found: Mapping[str, Any]) -> Iterator[str]:
    """The names of objects."""
    return (item["metadata"]["name"] for item in found)
