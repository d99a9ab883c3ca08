"""An API server for the session, a namespace and an operator for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator
from tests.chart import helm

CRD = Path(__file__).parents[2] / "crds" / "finetunejobs.finetune.dev.yaml"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with the CRD installed."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        install_crd(admin_of(plane))
        yield plane
    finally:
        plane.stop()


def admin_of(plane: ControlPlane) -> Api:
    return Api(plane.url, plane.ca, plane.admin_token)


def install_crd(api: Api) -> None:
    """Install the generated CRD and wait until it is served."""
    crd = yaml.safe_load(CRD.read_text())
    api.apply(crd)

    def served() -> bool:
        found = api.get("CustomResourceDefinition", crd["metadata"]["name"])
        established = any(
            c["type"] == "Established" and c["status"] == "True" for c in found["status"].get("conditions") or ()
        )
        return established and is_stored(crd["spec"]["names"]["kind"])

    def is_stored(kind: str) -> bool:
        try:
            api.list(kind)
        except Refused as refused:
            if refused.code != 429:  # The API server initialises the storage of an established kind.
                raise
            return False
        return True

    wait_until(served, "the CRD is served")


@pytest.fixture(scope="session")
def admin(api_server: ControlPlane) -> Api:
    return admin_of(api_server)


@pytest.fixture(scope="session")
def operator_token(admin: Api) -> str:
    """A token of the chart's service account, with exactly the permissions of the chart."""
    admin.create("Namespace", {"metadata": {"name": helm.NAMESPACE}})
    for document in helm.rendered("crds.install=false"):
        if document["kind"] in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
            admin.apply(document, manager="helm")
    return admin.token_of("finetune-operator", helm.NAMESPACE)


@pytest.fixture(scope="session")
def operator_kubeconfig(api_server: ControlPlane, operator_token: str) -> Path:
    return api_server.write_kubeconfig("finetune-operator", operator_token)


@pytest.fixture
def desk(admin: Api) -> Iterator[Desk]:
    """A namespace for one test."""
    name = f"team-{next(_numbers)}"
    admin.create("Namespace", {"metadata": {"name": name}})
    found = Desk(admin, name)
    yield found
    for job in admin.list("FineTuneJob", name):
        admin.delete("FineTuneJob", job["metadata"]["name"], name)


@pytest.fixture(scope="module")
def office(
    operator_kubeconfig: Path, admin: Api, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Desk, Operator]]:
    """A namespace and a running operator for a whole module; each test uses its own job names.

    The module may have SETTINGS for it.
    """
    name = f"team-{next(_numbers)}"
    admin.create("Namespace", {"metadata": {"name": name}})
    directory = tmp_path_factory.mktemp("office")
    settings = getattr(request.module, "SETTINGS", {})
    operator = Operator(operator_kubeconfig, directory, namespaces=[name], **settings)
    try:
        yield Desk(admin, name), operator.start()
    finally:
        operator.end()


@pytest.fixture
def start_operator(
    api_server: ControlPlane, operator_kubeconfig: Path, desk: Desk, tmp_path: Path
) -> Iterator[Callable[..., Operator]]:
    """Starts operators for the test's namespace and stops them at the end of the test."""
    started: list[Operator] = []

    def start(wait: bool = True, admin: bool = False, **settings: Any) -> Operator:
        directory = tmp_path / f"operator-{len(started)}"
        chosen = {"namespaces": [desk.namespace], **settings}
        operator = Operator(api_server.kubeconfig if admin else operator_kubeconfig, directory, **chosen)
        started.append(operator)
        return operator.start(wait)

    yield start
    for operator in started:
        operator.end()


@pytest.fixture
def operator(start_operator: Callable[..., Operator]) -> Operator:
    """A running operator."""
    return start_operator()
