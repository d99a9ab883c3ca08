"""A job whose teacher generates answers, on a real API server."""

from __future__ import annotations

import pytest

from tests.apiserver.desk import Desk, condition

TAUGHT = {
    "task": {"type": "InstructionTuning"},
    "distillation": {
        "mode": "Responses",
        "teacher": {"uri": "hf://owner/teacher", "secretRef": {"name": "of-teacher"}, "maxNewTokens": 256},
    },
}


@pytest.mark.usefixtures("operator")
def test_the_teacher_responds_on_one_gpu_before_the_training(desk: Desk) -> None:
    desk.apply(
        **TAUGHT,
        dataset={"train": {"uri": "s3://data/prompts.jsonl", "secretRef": {"name": "reader"}}},
        output={"uri": "s3://adapters", "secretRef": {"name": "writer"}},
        distributed={"workers": 2, "gpusPerWorker": 4},
        training={"batchSize": 32},
    )
    desk.kubelet.succeed(desk.child("prepare"))
    child = desk.child("respond")
    (container,) = child["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["args"][0] == "respond"
    assert {source["secretRef"]["name"] for source in container["envFrom"]} == {"of-teacher", "reader", "writer"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/dev/shm", "/workspace"}
    running = desk.until_phase("Responding")
    assert condition(running, "Responded")["status"] == "Unknown"
    desk.kubelet.succeed(child)
    for following in ("train", "evaluate", "publish"):
        desk.kubelet.succeed(desk.child(following))
    status = desk.until_phase("Succeeded")
    assert [entry["name"] for entry in status["stages"]] == ["prepare", "respond", "train", "evaluate", "publish"]
    assert condition(status, "Responded")["status"] == "True"
    desk.until_event("RespondSucceeded")
