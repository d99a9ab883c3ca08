"""Runs to trust: replaced data, reverted specs, sidecars, pods out of reach, and gangs that wait for each other."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.apiserver.api import Api
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import stage
from tests.cluster.curves import STEPS, long_job
from tests.cluster.node import node_of
from tests.cluster.services import BUCKETS
from tests.cluster.sharing import Turns
from tests.cluster.tenant import INPUTS, SLOW_CPU, Object, Tenant, classification, condition_message

PORT = 9400


def rows_of(tenant: Tenant, count: int) -> Object:
    """Let the data set of ``tenant`` have the first ``count`` rows; returns ``spec.dataset``."""
    name = f"{tenant.name}.jsonl"
    lines = (BUCKETS / INPUTS / "sentences.jsonl").read_text().splitlines(keepends=True)
    (BUCKETS / INPUTS / name).write_text("".join(lines[:count]))
    return {"train": {"uri": f"s3://{INPUTS}/{name}", "secretRef": {"name": "s3"}}}


def test_a_job_that_is_created_again_is_trained_on_its_data_as_it_is_now(tenant: Tenant) -> None:
    spec = classification(dataset=rows_of(tenant, 240), distributed={"workers": 1})
    tenant.apply("again", spec)
    before = tenant.until_succeeded("again")
    rows_of(tenant, 300)
    tenant.api.delete("FineTuneJob", "again", tenant.name)
    wait_until(tenant.is_clean, "the children are gone", 300, 0.5)
    tenant.apply("again", spec)
    after = tenant.until_succeeded("again")
    assert (before["revision"], after["revision"]) == (1, 2)
    assert before["artifact"]["digest"] != after["artifact"]["digest"]
    trained = [tenant.revision("again", number) / "artifact" / "manifest.json" for number in (1, 2)]
    first, second = (json.loads(path.read_text())["provenance"]["inputsDigest"] for path in trained)
    assert first != second


def test_a_reverted_spec_continues_with_its_revision_and_checkpoint(tenant: Tenant) -> None:
    tenant.apply("reverted", long_job())
    tenant.until_checkpoint("reverted")
    tenant.change("reverted", training={"learningRate": 2e-3})
    tenant.until("reverted", lambda status: status["revision"] == 2, "revision 2 has begun")
    tenant.change("reverted", training={"learningRate": 1e-3})
    status = tenant.until_trained("reverted")
    assert status["revision"] == 1
    assert [(entry["revision"], entry["phase"]) for entry in status["history"]] == [(2, "Superseded")]
    assert [point["step"] for point in tenant.curve("reverted")] == list(range(1, STEPS + 1))


@contextmanager
def port_of(pod: Object) -> Iterator[None]:
    """Drop what is sent to the port of ``pod`` that the operator reads."""
    identity = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    enter = ("nsenter", f"--target={node_of(pod).task(identity)}", "--net", "iptables", "--wait")
    rule = ("INPUT", "--protocol", "tcp", "--dport", str(PORT), "--jump", "DROP")
    subprocess.run([*enter, "--insert", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run([*enter, "--delete", *rule], check=True)


def test_a_training_that_the_operator_cannot_reach_goes_on(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.limit("LimitRange", SLOW_CPU)
    job = long_job(
        training={"maxSteps": 5000, "checkpoint": {"everySteps": 50}},
        distributed={"workers": 1},
        resilience={"stallTimeoutSeconds": 30},
    )
    with Turns("operator").together():  # A restarted operator would start its timeouts again.
        tenant.apply("hidden", job)
        tenant.until_reported_step("hidden", 1)
        pod = tenant.worker("hidden", 0)
        with port_of(pod):
            status = tenant.until(
                "hidden",
                lambda status: "the operator cannot reach its pod" in condition_message(status, "Trained"),
                "the status says that the operator cannot reach the pod",
            )
        assert (status.get("failure"), stage(status, "train")["attempt"]) == (None, 1)
        status = tenant.until(
            "hidden", lambda status: condition_message(status, "Trained") == "Training.", "the progress is known again"
        )
    assert stage(status, "train")["attempt"] == 1
    assert status["checkpoint"]["step"] > 0


@pytest.fixture
def mesh(tenant: Tenant) -> Iterator[Tenant]:
    """A team whose pods get a sidecar, as a mesh injects it."""
    api, name = tenant.api, f"sidecar-{secrets.token_hex(3)}"
    container = (
        'Object.spec.containers{name: "mesh-proxy", image: object.spec.containers[0].image, '
        'command: ["sleep", "100000"], securityContext: Object.spec.containers.securityContext{'
        "allowPrivilegeEscalation: false, capabilities: Object.spec.containers.securityContext.capabilities{"
        'drop: ["ALL"]}}}'
    )
    patch = f'[JSONPatch{{op: "add", path: "/spec/containers/-", value: {container}}}]'
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    spec: dict[str, Any] = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [pods]},
        "matchConditions": [{"name": "team", "expression": f"object.metadata.namespace == '{tenant.name}'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
    }
    api.create("MutatingAdmissionPolicy", {"metadata": {"name": name}, "spec": spec})
    api.create("MutatingAdmissionPolicyBinding", {"metadata": {"name": name}, "spec": {"policyName": name}})
    wait_until(lambda: _is_injected(api, tenant.name), "pods get a sidecar", 60, 0.5)
    yield tenant
    api.delete("MutatingAdmissionPolicyBinding", name)
    api.delete("MutatingAdmissionPolicy", name)


def _is_injected(api: Api, namespace: str) -> bool:
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "probe", "image": "none", "securityContext": restricted}
    pod = {
        "metadata": {"name": "probe", "namespace": namespace},
        "spec": {"containers": [container], "securityContext": security},
    }
    return len(api.create("Pod", pod, dryRun="All")["spec"]["containers"]) == 2


def test_a_sidecar_delays_no_stage(mesh: Tenant) -> None:
    mesh.apply("meshed", classification())
    status = mesh.until_succeeded("meshed")
    assert [(entry["attempt"], entry["restarts"]) for entry in status["stages"]] == [(1, 0)] * 4
    wait_until(lambda: not any(map(_runs, mesh.pods("meshed"))), "the sidecars have ended", 120, 0.5)


def _runs(pod: Object) -> bool:
    return bool(pod["status"]["phase"] == "Running")


def test_two_gangs_with_room_for_one_end_one_after_the_other(make_tenant: Callable[[], Tenant]) -> None:
    tenant = make_tenant()
    tenant.limit("ResourceQuota", {"hard": {"pods": "2"}})
    names = ("first", "second")
    for name in names:
        tenant.apply(name, classification())
    for name in names:
        tenant.until_succeeded(name, 1500)
