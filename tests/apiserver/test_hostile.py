"""Termination messages and /progress are not trusted: invalid ones must not harm the job or the operator."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import Stage, StageError, StageReport
from tests.apiserver.api import Refused
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, Operator, condition, stage
from tests.apiserver.kubelet import INDEX, message
from tests.builders import a_report

SETTINGS = {"progressSeconds": 0.1, "resyncSeconds": 1}

Changes = dict[str, Any]
HUGE = 10**30
_numbers = itertools.count(1)
UNEXPLAINED = "prepare exited with code 0 but reported no result; see its log."
SILENT = "prepare ended with exit code 1; see its log."


def report(name: Stage = Stage.PREPARE, attempt: int = 1, **changes: Any) -> str:
    """A report of success in which fields, given as a__b, are replaced."""
    return changed(json.loads(message(a_report(name, attempt))), changes)


def failure(code: int = 65, text: str = "bad", reason: Reason = Reason.BAD_DATA, **changes: Any) -> str:
    error = StageError(reason=reason, message=text, exit_code=code)
    result = StageReport(stage=Stage.PREPARE, attempt=1, seconds=1.0, error=error)
    return changed(result.model_dump(mode="json", exclude_none=True), changes)


def changed(document: dict[str, Any], changes: Changes) -> str:
    for path, value in changes.items():
        node = document
        *parents, last = path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return json.dumps(document)


@dataclass(frozen=True)
class Message:
    """A termination message that no real stage writes; ``expected`` is a part of the expected report."""

    name: str
    text: str
    expected: str = UNEXPLAINED
    code: int = 0
    reason: Reason = Reason.INTERNAL_ERROR


MESSAGES = (
    Message("nothing", ""),
    Message("one megabyte", "x" * 1_000_000),
    Message("one megabyte of JSON", report(prepare__uri="x" * 1_000_000)),
    Message("not JSON", "{oops"),
    Message("a list", "[1, 2]"),
    Message("a string", '"done"'),
    Message("null", "null"),
    Message("an empty object", "{}"),
    Message("nested deeply", '{"prepare":' * 1000),
    Message("lists nested deeply", '{"prepare":' + "[" * 8000),
    Message("wrong types", report(seconds="1", prepare="done")),
    Message("unknown fields", report(extra=1)),
    Message("a null twice", '{"stage":"prepare","attempt":null,"attempt":null,"seconds":1}'),
    Message("half a character", '{"stage":"prepare","attempt":1,"seconds":1,"error":"\\ud800"}'),
    Message("NaN for a time", report(seconds=float("nan"))),
    Message("a number of 5000 digits", report(seconds=7).replace("7,", "7" * 5000 + ",", 1)),
    Message("more rows than there are numbers", report(prepare__examples={"train": HUGE})),
    Message("fewer rows than none", report(prepare__examples={"train": -1})),
    Message("more tokens than there are numbers", report(prepare__tokens=HUGE)),
    Message("a checkpoint beyond all steps", report(checkpoint={"step": HUGE, "uri": "s3://a"})),
    Message("a checkpoint at a long address", report(checkpoint={"step": 1, "uri": "s3://" + "a" * 3000})),
    Message("the report of another stage", report(Stage.TRAIN)),
    Message("the report of another attempt", report(attempt=2)),
    Message("success without a result", json.dumps({"stage": "prepare", "attempt": 1, "seconds": 1.0})),
    Message("success of a process that failed", report(), code=1, expected=SILENT),
    Message("a failure with a rank beyond numbers", failure(65, error__rank=HUGE), code=65, expected="exit code 65"),
    Message("a failure of an unknown reason", failure(65, error__reason="Bored"), code=65, expected="exit code 65"),
    Message("a failure of a process that succeeded", failure(65, "It expected so."), expected="It expected so."),
    Message("a long sentence", failure(65, "a" * 12_000), code=65, expected="a" * 1999 + "…"),
    Message("control characters", failure(65, "a\u0000b\u001b[31m\r\n\tc"), code=65, expected="a b c"),
    Message("line breaks of YAML", failure(65, "a\u2028b\u2029c\u0085d"), code=65, expected="a b c d"),
    Message("half a picture", failure(65, "a\ud83d b"), code=65, expected="a? b"),
    Message("another reading order", failure(65, "a\u202eb"), code=65, expected="ab"),
    Message(
        "pictures",
        failure(65, "GLHF! \U0001f3d6\ufe0f \x7f\x85\ufeff\uffff"),
        code=65,
        expected="GLHF! \U0001f3d6\ufe0f",
    ),
    Message("the reason of the operator", failure(65, reason=Reason.GATE_FAILED), code=65, expected="bad"),
)


@pytest.fixture(scope="module")
def desk_of_messages(office: tuple[Desk, Operator]) -> Desk:
    """A desk with a job for each message."""
    desk, _ = office
    for number in range(len(MESSAGES)):
        desk.apply(f"message-{number}", resilience={"maxRestarts": 0})
    for number, case in enumerate(MESSAGES):
        job = desk.child("prepare", name=f"message-{number}")
        for pod in desk.kubelet.run(job):
            desk.kubelet.ended(pod, case.code, case.text)
        (desk.kubelet.fail if case.code else desk.kubelet.complete)(job)
    return desk


class TestTerminationMessage:
    @pytest.mark.parametrize("number", range(len(MESSAGES)), ids=[case.name for case in MESSAGES])
    def test_invalid_message_fails_the_stage_and_is_reported(self, desk_of_messages: Desk, number: int) -> None:
        desk, case = desk_of_messages, MESSAGES[number]
        status = desk.until(lambda status: status.get("completionTime"), "it has failed", f"message-{number}")
        assert status["phase"] in ("Failed", "Rejected")
        assert case.expected in status["failure"]["message"]
        assert condition(status, "Stalled")["status"] == "True"
        assert stage(status, "train")["attempt"] == 0


A_METRIC = {
    "name": "accuracy",
    "baseline": -1e308,
    "tuned": 1e308,
    "change": 1e308,
    "interval": [-1e308, 1e308],
    "higherIsBetter": True,
}


class TestReportOfALaterStage:
    """Its numbers and URIs are in the status, whose bounds they must not exceed."""

    @pytest.mark.parametrize(
        ("of", "changes"),
        [
            (Stage.TRAIN, {"train__steps": HUGE}),
            (Stage.TRAIN, {"train__loss": 1e308, "train__tokens_per_second": 1e308}),
            (Stage.EVALUATE, {"evaluate__evaluation__metrics": [A_METRIC, A_METRIC]}),
            (Stage.EVALUATE, {"evaluate__evaluation__examples": HUGE}),
            (Stage.EVALUATE, {"evaluate__evaluation__split": "s" * 65}),
            (Stage.EVALUATE, {"evaluate__evaluation__metrics": []}),
            (Stage.PUBLISH, {"publish__uri": "s3://" + "a" * 3000}),
            (Stage.PUBLISH, {"publish__digest": "sha256:" + "0" * 200}),
            (Stage.PUBLISH, {"publish__size": 10**400}),
        ],
        ids=lambda value: str(value)[:48],
    )
    def test_ends_the_stage(self, office: tuple[Desk, Operator], of: Stage, changes: Changes) -> None:
        desk, _ = office
        name = f"later-{next(_numbers)}"
        desk.apply(name, resilience={"maxRestarts": 0})
        job = desk.run_to(of, name)
        content = json.loads(message(a_report(of)))
        for pod in desk.kubelet.run(job):
            desk.kubelet.ended(pod, 0, changed(content, changes))
        desk.kubelet.complete(job)
        status = desk.until(
            lambda status: stage(status, of)["state"] in ("Succeeded", "Failed"), "the stage has ended", name
        )
        assert condition(status, "Ready")["reason"] != "ReconcileError"


class TestForeignObjects:
    """Anyone who may create pods or Jobs can give them the labels of a job."""

    def forged(self, desk: Desk, kind: str, name: str, owner: dict[str, Any], **labels: str) -> dict[str, Any]:
        meta = {
            "name": name,
            "namespace": desk.namespace,
            "labels": {
                "finetune.dev/job": "forged",
                "finetune.dev/revision": "1",
                "finetune.dev/stage": "prepare",
                "finetune.dev/attempt": "1",
                **labels,
            },
            "annotations": {INDEX: "worker-0"},
            "ownerReferences": [owner],
        }
        pod = {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "busybox"}]}
        spec = pod if kind == "Pod" else {"template": {"spec": pod}}
        return {"metadata": meta, "spec": spec}

    def test_do_not_stop_the_operator(self, office: tuple[Desk, Operator]) -> None:
        desk, operator = office
        uid = desk.apply("forged")["metadata"]["uid"]
        desk.child("prepare", name="forged")
        owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "forged", "uid": uid}
        for number in ("x", "-1", "1e3", "99999999999999999999", "0", ""):
            for kind in ("Pod", "Job"):
                name, labels = f"forged-{next(_numbers)}", {"finetune.dev/revision": number}
                with contextlib.suppress(Refused):
                    desk.api.create(kind, self.forged(desk, kind, name, {**owner, "controller": True}, **labels))
        assert len(desk.api.list("Pod", desk.namespace, labelSelector="finetune.dev/job=forged")) >= 3
        synced = operator.metric("finetune_last_resync_timestamp_seconds")
        # A resync is complete, and the valid job continues.
        wait_until(lambda: operator.metric("finetune_last_resync_timestamp_seconds") > synced, "the next resync")
        assert operator.http("/readyz")[0] == 200
        desk.apply("honest")
        desk.run_to("train", "honest")
