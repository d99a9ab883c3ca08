"""A real etcd and kube-apiserver on free loopback ports, with RBAC and without controllers or kubelets."""

from __future__ import annotations

import base64
import functools
import json
import os
import secrets
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.tools import go_tool

_STARTS_WITHIN_SECONDS = 120.0


class NotStarted(Exception):
    """A program did not become ready; the message has the end of its log."""


@dataclass(frozen=True)
class Program:
    """A running program and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Terminate it by its process id, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def start(arguments: list[str], log: Path, env: dict[str, str] | None = None) -> Program:
    """Start a program with its output in ``log``."""
    with log.open("ab") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
    return Program(process, log)


def wait_until(holds: Callable[[], Any], what: str, seconds: float = 30.0, every: float = 0.05) -> Any:
    """The first true result of ``holds``; fails after a timeout with ``what`` was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


@functools.cache
def signing_key() -> bytes:
    """A private key for service account tokens, created with a program of the Go distribution."""
    root = subprocess.run(["go", "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(root, "src", "crypto", "tls", "generate_cert.go"))
        subprocess.run(["go", "run", program, "--host=localhost"], cwd=folder, check=True, capture_output=True)
        return Path(folder, "key.pem").read_bytes()


class ControlPlane:
    """etcd and kube-apiserver; can be stopped and started again on the same data and port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._etcd_port, self._etcd_peer_port, self._port = free_port(), free_port(), free_port()
        self.admin_token = secrets.token_hex(16)
        self._programs: dict[str, Program] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._write_credentials()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def pids(self) -> dict[str, int]:
        """The process of each running program."""
        return {name: program.process.pid for name, program in self._programs.items()}

    @property
    def ca(self) -> Path:
        return self._directory / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """Path of an administrator's kubeconfig."""
        return self.write_kubeconfig("admin", self.admin_token)

    def start(self) -> None:
        self.start_etcd()
        self.start_apiserver()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer_port}"
        self._programs["etcd"] = start(
            [
                str(go_tool("etcd")),
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            self._directory / "etcd.log",
        )
        self._wait("etcd", lambda: self._answers(f"{client}/health"))

    def start_apiserver(self) -> None:
        self._programs["kube-apiserver"] = start(
            [
                str(go_tool("kube-apiserver")),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                f"--secure-port={self._port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--cert-dir={self._directory / 'certs'}",
                f"--token-auth-file={self._directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={self._directory / 'sa.key'}",
                f"--service-account-signing-key-file={self._directory / 'sa.key'}",
                "--service-cluster-ip-range=10.99.0.0/24",
                # There is no controller that creates default service accounts.
                "--disable-admission-plugins=ServiceAccount",
                "--allow-privileged=true",
                "--v=0",
            ],
            self._directory / "kube-apiserver.log",
        )
        self._wait("kube-apiserver", lambda: self._request_ok("/readyz"))

    def stop_apiserver(self) -> None:
        self._programs.pop("kube-apiserver").kill()

    def stop(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            if name in self._programs:
                self._programs.pop(name).kill()

    def write_kubeconfig(self, user: str, token: str, namespace: str = "default", url: str | None = None) -> Path:
        """Path of a kubeconfig for a user; ``url`` is that of a proxy in front of the API server."""
        ca = base64.b64encode(self.ca.read_bytes()).decode()
        cluster = {"server": url} if url else {"server": self.url, "certificate-authority-data": ca}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
            "current-context": "test",
        }
        path = self._directory / f"{user}-{secrets.token_hex(4) if url else 'direct'}.kubeconfig"
        path.write_text(json.dumps(document))
        return path

    def _write_credentials(self) -> None:
        (self._directory / "tokens.csv").write_text(f'{self.admin_token},admin,admin,"system:masters"\n')
        (self._directory / "sa.key").write_bytes(signing_key())

    def _wait(self, name: str, holds: Callable[[], bool]) -> None:
        program = self._programs[name]
        deadline = time.monotonic() + _STARTS_WITHIN_SECONDS
        while not holds():
            if program.process.poll() is not None or time.monotonic() > deadline:
                program.kill()
                raise NotStarted(f"{name} did not start:\n{program.tail()}")
            time.sleep(0.05)

    def _request_ok(self, path: str) -> bool:
        import ssl

        if not self.ca.exists():
            return False
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.admin_token}"})
        try:
            # The server may still be writing its certificate.
            context = ssl.create_default_context(cafile=str(self.ca))
            context.check_hostname = False
            with urllib.request.urlopen(request, context=context, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without variables that refer to a cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "FINETUNE_"))}
    return kept | more
