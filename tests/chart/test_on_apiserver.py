"""The chart on a real API server: every object is accepted, and the rights suffice for the whole life of a job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import ControlPlane, wait_until
from tests.apiserver.desk import Desk, Operator
from tests.chart.helm import NAMESPACE, rendered, the

ACCOUNT = "finetune-operator"
TEAM, OTHER = "team-a", "team-b"
CLUSTER_WIDE: tuple[str, ...] = ()
IN_NAMESPACE = (f'namespaces=["{TEAM}"]',)
PLACES = pytest.mark.parametrize("values", [CLUSTER_WIDE, IN_NAMESPACE], ids=["cluster-wide", "in a namespace"])


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        admin = Api(plane.url, plane.ca, plane.admin_token)
        for name in (NAMESPACE, TEAM, OTHER):
            admin.create("Namespace", {"metadata": {"name": name}})
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def admin(plane: ControlPlane) -> Api:
    return Api(plane.url, plane.ca, plane.admin_token)


@pytest.fixture
def installed(admin: Api, values: tuple[str, ...]) -> Iterator[str]:
    """Install the chart and return a token of the operator's service account."""
    for document in rendered(*values):
        admin.apply(document, manager="helm")
    yield admin.token_of(ACCOUNT, NAMESPACE)
    # Keep the CRD, as helm does. Remove everything else, so that no rights remain for the next test.
    for document in rendered(*values):
        if document["kind"] != "CustomResourceDefinition":
            admin.delete(document["kind"], document["metadata"]["name"], document["metadata"].get("namespace", ""))


@PLACES
def test_the_operator_has_all_rights_for_the_life_of_a_job(
    plane: ControlPlane, admin: Api, installed: str, values: tuple[str, ...], tmp_path: Path
) -> None:
    kubeconfig = plane.write_kubeconfig(ACCOUNT, installed)
    operator = Operator(kubeconfig, tmp_path, namespaces=[TEAM] if values else [])
    desk = Desk(admin, TEAM if values else OTHER)
    try:
        operator.start()
        desk.apply(distributed={"workers": 2})
        desk.run_all()
        # A second revision makes the children of the first obsolete.
        desk.apply(distributed={"workers": 2}, training={"epochs": 1}, resilience={"ttlSecondsAfterFinished": 1})
        for stage in ("prepare", "train", "evaluate", "publish"):
            desk.kubelet.succeed(desk.child(stage, revision=2))
        wait_until(
            lambda: admin.find("FineTuneJob", "intents", desk.namespace) is None, "the job is deleted after its TTL"
        )
        # Suspend the job while its pod runs.
        desk.apply("second")
        child = desk.child("prepare", name="second")
        desk.kubelet.run(child)
        admin.merge("FineTuneJob", "second", desk.namespace, {"spec": {"suspend": True}})
        wait_until(lambda: _is_ended(admin, child), "the child Job is terminated")
        for reason in ("PrepareStarted", "Published", "NewRevision"):
            desk.until_event(reason)
        metrics = operator.http("/metrics")[1]
    finally:
        operator.kill()
    assert re.findall(r'^finetune_api_requests_total\{code="403".*$', metrics, flags=re.MULTILINE) == []
    assert re.findall(r"^.*[Ff]orbidden.*$", operator.log(), flags=re.MULTILINE) == []


@PLACES
def test_the_operator_cannot_read_secrets_or_config_maps(plane: ControlPlane, installed: str) -> None:
    operator = Api(plane.url, plane.ca, installed)
    for kind in ("Secret", "ConfigMap"):
        for namespace in (TEAM, NAMESPACE):
            with pytest.raises(Refused, match="forbidden"):
                operator.list(kind, namespace)


@pytest.mark.parametrize("values", [IN_NAMESPACE], ids=["in a namespace"])
def test_an_operator_with_a_namespace_list_cannot_read_other_namespaces(plane: ControlPlane, installed: str) -> None:
    operator = Api(plane.url, plane.ca, installed)
    operator.list("FineTuneJob", TEAM)
    for namespace in ("", OTHER, NAMESPACE):
        with pytest.raises(Refused, match="forbidden"):
            operator.list("FineTuneJob", namespace)


def test_the_operator_pod_meets_the_restricted_pod_security_standard(admin: Api) -> None:
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.create("Namespace", {"metadata": {"name": "restricted", "labels": strict}})
    template = the("Deployment")["spec"]["template"]
    metadata: dict[str, Any] = {**template["metadata"], "name": "operator", "namespace": "restricted"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    admin.create("Pod", pod, dryRun="All")
    pod["spec"] = {**pod["spec"], "hostNetwork": True}
    with pytest.raises(Refused, match="violates PodSecurity"):
        admin.create("Pod", pod, dryRun="All")


def _is_ended(admin: Api, child: dict[str, Any]) -> bool:
    found = admin.get("Job", child["metadata"]["name"], child["metadata"]["namespace"])
    return bool(found["spec"].get("activeDeadlineSeconds") == 1)
