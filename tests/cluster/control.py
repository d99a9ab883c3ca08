"""The control plane: etcd, the API server, controllers, scheduler and their users."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import signing_key
from tests.cluster.containers import responds
from tests.cluster.daemons import Daemon
from tests.cluster.layout import (
    API_SERVER,
    ETCD_CLIENT_PORT,
    ETCD_PEER_PORT,
    MACHINE_ADDRESS,
    PLACES,
    RUN,
    SERVICE_NETWORK,
)
from tests.tools import go_tool

ETCD, APISERVER = Daemon("etcd"), Daemon("kube-apiserver")
CONTROLLERS, SCHEDULER = Daemon("kube-controller-manager"), Daemon("kube-scheduler")

_ETCD_CLIENTS, _ETCD_PEERS = f"http://127.0.0.1:{ETCD_CLIENT_PORT}", f"http://127.0.0.1:{ETCD_PEER_PORT}"
_USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    **{place.name: (f"system:node:{place.name}", "system:nodes") for place in PLACES},
}
_CERTIFICATES = RUN / "certificates"
_CA = _CERTIFICATES / "apiserver.crt"
_TOKENS = RUN / "config" / "tokens.csv"
_SIGNING_KEY = RUN / "config" / "service-accounts.key"


def start() -> None:
    """Start an empty control plane."""
    _TOKENS.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{secrets.token_hex(16)},{user},{user},"{group}"' for user, group in _USERS.values()]
    _TOKENS.write_text("\n".join(lines) + "\n")
    _SIGNING_KEY.write_bytes(signing_key())
    ETCD.start(
        [
            go_tool("etcd"),
            f"--data-dir={RUN / 'etcd'}",
            f"--listen-client-urls={_ETCD_CLIENTS}",
            f"--advertise-client-urls={_ETCD_CLIENTS}",
            f"--listen-peer-urls={_ETCD_PEERS}",
            f"--initial-advertise-peer-urls={_ETCD_PEERS}",
            f"--initial-cluster=default={_ETCD_PEERS}",
            "--log-level=warn",
            # The data must outlive the process but not the machine, and fsync on a slow disk would delay every write.
            "--unsafe-no-fsync",
        ],
        ready=etcd_ready,
    )
    APISERVER.start(
        [
            go_tool("kube-apiserver"),
            f"--etcd-servers={_ETCD_CLIENTS}",
            "--secure-port=6443",
            f"--bind-address={MACHINE_ADDRESS}",
            f"--advertise-address={MACHINE_ADDRESS}",
            f"--cert-dir={_CERTIFICATES}",
            f"--token-auth-file={_TOKENS}",
            "--authorization-mode=Node,RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={_SIGNING_KEY}",
            f"--service-account-signing-key-file={_SIGNING_KEY}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            # The names of the nodes do not resolve.
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
        ],
        ready=apiserver_ready,
    )
    for user in _USERS:
        _write_kubeconfig(user)
    CONTROLLERS.start(
        [
            go_tool("kube-controller-manager"),
            f"--kubeconfig={kubeconfig('controllers')}",
            f"--service-account-private-key-file={_SIGNING_KEY}",
            f"--root-ca-file={_CA}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]
    )
    SCHEDULER.start(
        [
            go_tool("kube-scheduler"),
            f"--kubeconfig={kubeconfig('scheduler')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]
    )


def etcd_ready() -> bool:
    return responds(f"{_ETCD_CLIENTS}/health")


def apiserver_ready() -> bool:
    try:
        api().request("GET", "/readyz", accept="application/json")
    except ValueError:
        return True  # The response is "ok", which is not JSON.
    except (OSError, Refused):
        return False
    return True


def api() -> Api:
    """A client of the API server as administrator."""
    return Api(API_SERVER, _CA, _token("admin"))


def kubeconfig(user: str = "admin") -> Path:
    """The path of the kubeconfig of ``user``."""
    return RUN / "config" / f"{user}.kubeconfig"


def _write_kubeconfig(user: str) -> None:
    ca = base64.b64encode(_CA.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": API_SERVER, "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": {"token": _token(user)}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "current-context": "test",
    }
    kubeconfig(user).write_text(json.dumps(document))


def _token(user: str) -> str:
    wanted = _USERS[user][0]
    return next(line.split(",")[0] for line in _TOKENS.read_text().splitlines() if line.split(",")[1] == wanted)
