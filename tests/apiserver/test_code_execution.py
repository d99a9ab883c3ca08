"""Jobs that run generated programs, against an operator that does not allow it, and then does."""

from __future__ import annotations

from collections.abc import Callable

from finetune_core.names import SANDBOX
from tests.apiserver.desk import Desk, Operator, condition
from tests.builders import RUNS_CODE

ALLOWS = {"image": "finetune-trainer:test", "codeExecution": {"allowed": True}}


def test_a_job_waits_without_pods_until_the_operator_allows_it(
    desk: Desk, start_operator: Callable[..., Operator]
) -> None:
    first = start_operator()
    desk.apply(**RUNS_CODE)
    status = desk.until(
        lambda status: condition(status, "Accepted")["status"] == "False", "the operator does not accept the job"
    )
    accepted = condition(status, "Accepted")
    assert accepted["reason"] == "CodeExecutionForbidden"
    assert "trainer.codeExecution.allowed" in accepted["message"]
    assert condition(status, "Stalled")["status"] == "True"
    assert "completionTime" not in status
    desk.until_event("CodeExecutionForbidden")
    desk.apply("other")
    desk.child("prepare", name="other")
    assert desk.status() == status, "another job moves, this one does not"
    assert not [child for child in desk.children() if child["metadata"]["name"].startswith("intents")]
    first.stop()
    start_operator(trainer=ALLOWS)
    child = desk.child("prepare")
    # The API server knows sidecars, and keeps the field.
    (sidecar,) = child["spec"]["template"]["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == (SANDBOX, "Always")
    status = desk.run_all()
    assert condition(status, "Accepted")["status"] == "True"


def test_a_job_is_stopped_when_the_operator_no_longer_allows_it(
    desk: Desk, start_operator: Callable[..., Operator]
) -> None:
    first = start_operator(trainer=ALLOWS)
    desk.apply(**RUNS_CODE)
    child = desk.child("prepare")
    desk.kubelet.run(child)
    first.stop()
    second = start_operator()
    desk.being_ended(child)
    desk.kubelet.stopped(child, 143)
    status = desk.until(
        lambda status: condition(status, "Accepted")["status"] == "False", "the operator no longer accepts the job"
    )
    assert "completionTime" not in status
    second.stop()
    start_operator(trainer=ALLOWS)
    desk.child("prepare", attempt=2)
