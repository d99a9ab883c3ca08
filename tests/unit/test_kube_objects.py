"""Parsing of Jobs and pods, including those that the operator did not create."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_core import names
from finetune_core.runs import RunId
from finetune_kube.objects import StatusDetail, parse_job, parse_pod, version_of
from tests.builders import NOON
from tests.kube_objects import a_child, a_pod, ended, job_of, pod_of, running, true, waiting


class TestParseJob:
    def test_reads_run_owner_and_digest(self) -> None:
        parsed = job_of(a_child(Stage.EVALUATE, 2))
        assert parsed.run == RunId(1, Stage.EVALUATE, 2)
        assert (parsed.owner, parsed.owner_uid, parsed.spec_digest) == (("team-a", "intents"), "uid-1", "sha256:1")

    def test_reads_true_conditions(self) -> None:
        parsed = job_of(a_child(conditions=[true("Failed", "DeadlineExceeded"), true("Complete", status="False")]))
        assert parsed.failed is not None
        assert (parsed.failed.reason, parsed.failed.since, parsed.complete) == ("DeadlineExceeded", NOON, None)

    def test_resumed_job_is_not_suspended(self) -> None:
        conditions = [true("Suspended", "JobSuspended")]
        assert job_of(a_child(spec={"suspend": True}, conditions=conditions)).suspended is not None
        assert job_of(a_child(spec={"suspend": False}, conditions=conditions)).suspended is None
        assert job_of(a_child(conditions=conditions)).resumed_at is None
        assert job_of(a_child(conditions=[true("Suspended", "JobResumed", status="False")])).resumed_at == NOON

    @pytest.mark.parametrize("labels", [{}, {names.JOB_LABEL: "intents"}, None])
    def test_without_labels_is_none(self, labels: dict[str, str] | None) -> None:
        assert parse_job(a_child(metadata={"labels": labels})) is None

    def test_without_a_controller_is_none(self) -> None:
        owner = {"kind": "FineTuneJob", "name": "intents", "uid": "uid-1"}
        assert parse_job(a_child(metadata={"ownerReferences": [owner]})) is None

    @pytest.mark.parametrize("number", ["", "x", "-1", "1e3", "1_0", "１", " 1", "9" * 40])
    @pytest.mark.parametrize("label", [names.REVISION_LABEL, names.ATTEMPT_LABEL])
    def test_with_an_invalid_number_in_a_label_is_none(self, label: str, number: str) -> None:
        labels = names.labels("intents", RunId(1, Stage.TRAIN, 1)) | {label: number}
        assert parse_job(a_child(metadata={"labels": labels})) is None

    def test_with_an_unknown_stage_is_none(self) -> None:
        labels = names.labels("intents", RunId(1, Stage.TRAIN, 1)) | {names.STAGE_LABEL: "distil"}
        assert parse_job(a_child(metadata={"labels": labels})) is None


class TestParsePod:
    def test_new_pod_is_pending(self) -> None:
        parsed = pod_of(a_pod(a_child()))
        assert (parsed.phase, parsed.started_at, parsed.terminated, parsed.finished) == ("Pending", None, None, False)

    def test_running_pod_has_start_time_and_address(self) -> None:
        parsed = pod_of(a_pod(a_child(), 3, **running()))
        assert (parsed.index, parsed.started_at, parsed.address) == (3, NOON, "10.0.0.7")

    def test_terminated_pod_has_exit_code_and_message(self) -> None:
        parsed = pod_of(a_pod(a_child(), **ended(65, "no rows")))
        assert parsed.terminated is not None
        assert (parsed.terminated.exit_code, parsed.terminated.message, parsed.terminated.finished_at) == (
            65,
            "no rows",
            NOON,
        )
        assert parsed.finished

    def test_pod_that_waits_for_its_sandbox_has_the_reason_of_the_sandbox(self) -> None:
        statuses = waiting("PodInitializing", "")
        assert pod_of(a_pod(a_child(), **statuses)).waiting == StatusDetail("PodInitializing", "")
        cause = {"reason": "ErrImagePull", "message": "no such image"}
        statuses["initContainerStatuses"] = [{"name": names.SANDBOX, "state": {"waiting": cause}}]
        assert pod_of(a_pod(a_child(), **statuses)).waiting == StatusDetail("ErrImagePull", "no such image")

    def test_sandbox_does_not_count_as_a_sidecar_that_keeps_the_pod_alive(self) -> None:
        statuses = ended(0) | {"initContainerStatuses": [{"name": names.SANDBOX, "state": {"running": {}}}]}
        parsed = pod_of(a_pod(a_child(), **statuses))
        assert (parsed.finished, parsed.lingers) == (True, False)

    def test_waiting_pod_has_reason_and_message(self) -> None:
        parsed = pod_of(a_pod(a_child(), **waiting("ErrImagePull", "no such image")))
        assert parsed.waiting is not None
        assert (parsed.waiting.reason, parsed.waiting.message) == ("ErrImagePull", "no such image")

    def test_reads_conditions_with_the_relevant_status_only(self) -> None:
        conditions = [true("PodScheduled", "Unschedulable", "0/3", "False"), true("DisruptionTarget", "Preempted")]
        parsed = pod_of(a_pod(a_child(), conditions=conditions))
        assert parsed.not_scheduled is not None
        assert parsed.disruption is not None
        past = [true("PodScheduled"), true("DisruptionTarget", status="False")]
        parsed = pod_of(a_pod(a_child(), conditions=past))
        assert (parsed.not_scheduled, parsed.disruption) == (None, None)

    def test_ignores_sidecars(self) -> None:
        state = {"terminated": {"exitCode": 3}}
        parsed = pod_of(a_pod(a_child(), phase="Running", containerStatuses=[{"name": "istio-proxy", "state": state}]))
        assert parsed.terminated is None

    @pytest.mark.parametrize("annotations", [None, {}, {names.INDEX_ANNOTATION: "worker-0"}])
    def test_without_an_index_is_worker_0(self, annotations: Any) -> None:
        assert pod_of(a_pod(a_child(), 2, metadata={"annotations": annotations})).index == 0

    def test_without_an_owner_is_none(self) -> None:
        assert parse_pod(a_pod(a_child(), metadata={"ownerReferences": []})) is None

    def test_deleted_pod_is_finished(self) -> None:
        assert pod_of(a_pod(a_child(), **running()), deleted=True).finished


@pytest.mark.parametrize(("text", "version"), [("12", 12), ("", 0), ("opaque", 0)])
def test_resource_version_is_a_number(text: str, version: int) -> None:
    assert version_of({"metadata": {"resourceVersion": text}}) == version
