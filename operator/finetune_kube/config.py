"""Client configuration: from the service account of the pod, or from a kubeconfig."""

from __future__ import annotations

from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ConfigurationError(Exception):
    """There is no usable configuration; the message is that of the ``kubernetes`` package."""


def from_service_account() -> Configuration:
    """The API server and the token of the cluster that this pod runs in.

    Raises:
        ConfigurationError: This process does not run in a pod, or the pod has no token.
    """
    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise ConfigurationError(str(error)) from error
    return configuration


async def from_kubeconfig(
    paths: str | None = None, context: str | None = None, *, persist: bool = True
) -> tuple[Configuration, str]:
    """The configuration of a context, and its namespace.

    Args:
        paths: Kubeconfig files, separated by ``os.pathsep``; None for $KUBECONFIG or ``~/.kube/config``.
        context: The context; None for the current one.
        persist: Write refreshed credentials back to the file.

    Raises:
        ConfigurationError: There is no kubeconfig, or it cannot be used.
    """
    configuration = Configuration()
    try:
        loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=paths, context=context, client_configuration=configuration, persist_config=persist
        )
        return configuration, str(loader.current_context["context"].get("namespace") or "default")
    except Exception as error:
        # The loader raises errors of any type for a file that is not a kubeconfig.
        raise ConfigurationError(str(error)) from error


def pod_namespace() -> str:
    """The namespace of this pod; ``default`` when its service account does not name one."""
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.is_file() else "default"
