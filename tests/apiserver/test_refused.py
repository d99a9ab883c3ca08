"""Writes that the API server refuses for their content, and will refuse again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apiserver.api import Api, Refused
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, condition

SENTENCE = "nobody trains here"


@pytest.fixture
def policy(admin: Api, desk: Desk) -> Iterator[None]:
    """An admission policy that refuses the status of a job that trains, as an older CRD does with an unknown value."""
    name = f"no-training-{desk.namespace}"
    rule = {"apiGroups": ["finetune.dev"], "apiVersions": ["*"], "operations": ["UPDATE"]}
    spec: dict[str, Any] = {
        "matchConstraints": {"resourceRules": [{**rule, "resources": ["finetunejobs/status"]}]},
        "validations": [{"expression": "object.status.phase != 'Training'", "message": SENTENCE}],
    }
    admin.create("ValidatingAdmissionPolicy", {"metadata": {"name": name}, "spec": spec})
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": desk.namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    admin.create("ValidatingAdmissionPolicyBinding", {"metadata": {"name": name}, "spec": binding})
    yield
    admin.delete("ValidatingAdmissionPolicyBinding", name)
    admin.delete("ValidatingAdmissionPolicy", name)


class TestStatusThatIsRefused:
    def test_is_reported_and_does_not_keep_the_operator_busy(
        self, admin: Api, desk: Desk, policy: None, start_operator: Callable[..., Operator]
    ) -> None:
        desk.apply("probe")

        def refuses() -> bool:
            try:
                admin.merge_status("FineTuneJob", "probe", desk.namespace, {"phase": "Training"})
            except Refused as error:
                return SENTENCE in str(error)
            return False

        wait_until(refuses, "the policy is in force", 60)
        admin.delete("FineTuneJob", "probe", desk.namespace)
        operator = start_operator()
        desk.apply()
        desk.kubelet.run(desk.run_to("train"))
        status = desk.until(
            lambda status: condition(status, "Ready")["reason"] == "ReconcileError", "the refusal is in the status"
        )
        assert SENTENCE in condition(status, "Ready")["message"]
        errors = operator.metric("finetune_reconcile_errors_total")
        others = [f"other-{number}" for number in range(3)]
        for name in others:
            desk.apply(name)
            desk.child("prepare", name=name)
        assert operator.metric("finetune_reconcile_errors_total") - errors <= 2
