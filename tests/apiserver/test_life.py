"""The life cycle of a job on a real API server."""

from __future__ import annotations

import pytest

from tests.apiserver.desk import Desk, condition, stage


@pytest.mark.usefixtures("operator")
def test_job_passes_through_all_stages(desk: Desk) -> None:
    desk.apply()
    status = desk.run_all()
    assert [entry["state"] for entry in status["stages"]] == ["Succeeded"] * 4
    assert status["artifact"]["uri"] == "s3://adapters/team-a/intents/r1/artifact"
    assert condition(status, "Ready")["status"] == "True"
    assert stage(status, "train")["attempt"] == 1


@pytest.mark.usefixtures("operator")
def test_every_pod_meets_the_restricted_pod_security_standard(desk: Desk) -> None:
    """Checked by the API server's own admission, which rejects other pods."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    desk.api.request(
        "PATCH",
        desk.api.path("Namespace", name=desk.namespace),
        {"metadata": {"labels": label}},
        "application/merge-patch+json",
    )
    desk.apply(distributed={"workers": 2, "gpusPerWorker": 4}, training={"batchSize": 32})
    desk.run_all()
    pods = desk.api.list("Pod", desk.namespace)
    assert len(pods) == 5
    assert [pod for pod in pods if pod["spec"]["automountServiceAccountToken"]] == []


@pytest.mark.usefixtures("operator")
def test_gpus_are_requested_by_train_and_evaluate_only(desk: Desk) -> None:
    desk.apply(distributed={"workers": 2, "gpusPerWorker": 4}, training={"batchSize": 32})
    desk.run_all()
    gpus = {
        child["metadata"]["labels"]["finetune.dev/stage"]: child["spec"]["template"]["spec"]["containers"][0][
            "resources"
        ]
        .get("limits", {})
        .get("nvidia.com/gpu")
        for child in desk.children()
    }
    assert gpus == {"prepare": None, "train": "4", "evaluate": "1", "publish": None}


@pytest.mark.usefixtures("operator")
def test_credentials_reach_only_the_pods_that_need_them(desk: Desk) -> None:
    desk.apply(
        model={"uri": "hf://owner/encoder", "secretRef": {"name": "hub"}},
        dataset={"train": {"uri": "s3://data/intents.jsonl", "secretRef": {"name": "reader"}}},
        output={"uri": "s3://adapters", "secretRef": {"name": "writer"}},
    )
    desk.run_all()
    secrets = {
        child["metadata"]["labels"]["finetune.dev/stage"]: [
            source["secretRef"]["name"]
            for source in child["spec"]["template"]["spec"]["containers"][0].get("envFrom", [])
        ]
        for child in desk.children()
    }
    assert secrets == {
        "prepare": ["hub", "reader", "writer"],
        "train": ["hub", "writer"],
        "evaluate": ["hub", "writer"],
        "publish": ["writer"],
    }
