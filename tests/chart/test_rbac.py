"""The rights of the operator and of users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.chart.helm import NAMESPACE, of_kind, the

RIGHTS = {
    "finetune.dev/finetunejobs": {"get", "list", "watch", "delete"},
    "finetune.dev/finetunejobs/status": {"patch"},
    "batch/jobs": {"get", "list", "watch", "create", "patch", "delete"},
    "/pods": {"list", "watch", "delete"},
    "/services": {"get", "create", "patch"},
    "/events": {"list", "create"},
}
TEAMS = 'namespaces=["team-a","team-b"]'
OPERATOR = [{"kind": "ServiceAccount", "name": "finetune-operator", "namespace": NAMESPACE}]


def rights(role: Mapping[str, Any]) -> dict[str, set[str]]:
    return {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_has_only_the_rights_that_it_needs() -> None:
    assert rights(of_kind("ClusterRole")["finetune-operator"]) == RIGHTS
    binding = the("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == "finetune-operator"
    assert binding["subjects"] == OPERATOR
    assert not of_kind("Role")


def test_with_a_namespace_list_the_operator_has_no_rights_elsewhere() -> None:
    assert not of_kind("ClusterRoleBinding", TEAMS)
    assert "finetune-operator" not in of_kind("ClusterRole", TEAMS)
    roles, bindings = of_kind("Role", TEAMS), of_kind("RoleBinding", TEAMS)
    assert set(roles) == set(bindings) == {"team-a/finetune-operator", "team-b/finetune-operator"}
    for name, role in roles.items():
        assert rights(role) == RIGHTS
        assert bindings[name]["subjects"] == OPERATOR


def test_only_the_operator_pod_mounts_the_service_account_token() -> None:
    assert the("ServiceAccount")["automountServiceAccountToken"] is False
    assert the("Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_the_view_and_edit_roles_extend_to_finetunejobs() -> None:
    roles = of_kind("ClusterRole")
    view, edit = roles["finetune-operator-view"], roles["finetune-operator-edit"]
    assert rights(view)["finetune.dev/finetunejobs"] == {"get", "list", "watch"}
    assert {"create", "update", "patch", "delete"} < rights(edit)["finetune.dev/finetunejobs"]
    assert "finetune.dev/finetunejobs/status" not in rights(edit), "only the operator writes the status"
    assert _aggregated(view) == {"view"}
    assert _aggregated(edit) == {"edit", "admin"}
    assert set(of_kind("ClusterRole", "rbac.aggregate=false")) == {"finetune-operator"}


def _aggregated(role: Mapping[str, Any]) -> set[str]:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    return {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}
