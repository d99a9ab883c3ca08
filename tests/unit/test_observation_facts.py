"""What is read of Jobs and pods, whoever made them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_core import names
from finetune_core.runs import RunId
from finetune_kube.objects import job_facts, pod_facts, version_of
from tests.builders import NOON
from tests.kube_objects import a_child, a_pod, ended, job_of, pod_of, running, true, waiting


class TestAJob:
    def test_says_which_run_it_is_and_whose(self) -> None:
        facts = job_of(a_child(Stage.EVALUATE, 2))
        assert facts.run == RunId(1, Stage.EVALUATE, 2)
        assert (facts.owner, facts.owner_uid, facts.spec_digest) == (("team-a", "intents"), "uid-1", "sha256:1")

    def test_has_ended_when_a_condition_says_so(self) -> None:
        facts = job_of(a_child(conditions=[true("Failed", "DeadlineExceeded"), true("Complete", status="False")]))
        assert facts.failed is not None
        assert (facts.failed.reason, facts.failed.since, facts.complete) == ("DeadlineExceeded", NOON, None)

    def test_that_was_resumed_is_not_suspended(self) -> None:
        conditions = [true("Suspended", "JobSuspended")]
        assert job_of(a_child(spec={"suspend": True}, conditions=conditions)).suspended is not None
        assert job_of(a_child(spec={"suspend": False}, conditions=conditions)).suspended is None
        assert job_of(a_child(conditions=conditions)).resumed_at is None
        assert job_of(a_child(conditions=[true("Suspended", "JobResumed", status="False")])).resumed_at == NOON

    @pytest.mark.parametrize("labels", [{}, {names.JOB_LABEL: "intents"}, None])
    def test_without_our_labels_is_none_of_ours(self, labels: dict[str, str] | None) -> None:
        assert job_facts(a_child(metadata={"labels": labels})) is None

    def test_without_a_controller_is_none_of_ours(self) -> None:
        owner = {"kind": "FineTuneJob", "name": "intents", "uid": "uid-1"}
        assert job_facts(a_child(metadata={"ownerReferences": [owner]})) is None

    @pytest.mark.parametrize("number", ["", "x", "-1", "1e3", "1_0", "１", " 1", "9" * 40])
    @pytest.mark.parametrize("label", [names.REVISION_LABEL, names.ATTEMPT_LABEL])
    def test_with_a_forged_number_is_none_of_ours(self, label: str, number: str) -> None:
        labels = names.labels("intents", RunId(1, Stage.TRAIN, 1)) | {label: number}
        assert job_facts(a_child(metadata={"labels": labels})) is None

    def test_of_an_unknown_stage_is_none_of_ours(self) -> None:
        labels = names.labels("intents", RunId(1, Stage.TRAIN, 1)) | {names.STAGE_LABEL: "distil"}
        assert job_facts(a_child(metadata={"labels": labels})) is None


class TestAPod:
    def test_that_is_new_has_said_nothing(self) -> None:
        facts = pod_of(a_pod(a_child()))
        assert (facts.phase, facts.started_at, facts.ended, facts.finished) == ("Pending", None, None, False)

    def test_that_computes_says_since_when_and_where(self) -> None:
        facts = pod_of(a_pod(a_child(), 3, **running()))
        assert (facts.index, facts.started_at, facts.address) == (3, NOON, "10.0.0.7")

    def test_that_has_ended_says_how(self) -> None:
        facts = pod_of(a_pod(a_child(), **ended(65, "no rows")))
        assert facts.ended is not None
        assert (facts.ended.exit_code, facts.ended.message, facts.ended.finished_at) == (65, "no rows", NOON)
        assert facts.finished

    def test_that_waits_says_for_what(self) -> None:
        facts = pod_of(a_pod(a_child(), **waiting("ErrImagePull", "no such image")))
        assert facts.waiting is not None
        assert (facts.waiting.reason, facts.waiting.message) == ("ErrImagePull", "no such image")

    def test_conditions_count_while_they_hold(self) -> None:
        told = [true("PodScheduled", "Unschedulable", "0/3", "False"), true("DisruptionTarget", "Preempted")]
        facts = pod_of(a_pod(a_child(), conditions=told))
        assert facts.unscheduled is not None
        assert facts.disrupted is not None
        past = [true("PodScheduled"), true("DisruptionTarget", status="False")]
        facts = pod_of(a_pod(a_child(), conditions=past))
        assert (facts.unscheduled, facts.disrupted) == (None, None)

    def test_a_sidecar_says_nothing_of_the_stage(self) -> None:
        state = {"terminated": {"exitCode": 3}}
        facts = pod_of(a_pod(a_child(), phase="Running", containerStatuses=[{"name": "istio-proxy", "state": state}]))
        assert facts.ended is None

    @pytest.mark.parametrize("annotations", [None, {}, {names.INDEX_ANNOTATION: "worker-0"}])
    def test_without_an_index_is_the_first(self, annotations: Any) -> None:
        assert pod_of(a_pod(a_child(), 2, metadata={"annotations": annotations})).index == 0

    def test_of_nobody_is_none_of_ours(self) -> None:
        assert pod_facts(a_pod(a_child(), metadata={"ownerReferences": []})) is None

    def test_that_is_gone_has_finished(self) -> None:
        assert pod_of(a_pod(a_child(), **running()), gone=True).finished


@pytest.mark.parametrize(("text", "version"), [("12", 12), ("", 0), ("opaque", 0)])
def test_a_version_is_a_number(text: str, version: int) -> None:
    assert version_of({"metadata": {"resourceVersion": text}}) == version
