"""Suspending, changing and deleting a job, in every stage."""

from __future__ import annotations

import pytest

from finetune_api.failures import Reason
from finetune_api.stage import StageError
from tests.apiserver.api import conditions
from tests.apiserver.control_plane import wait_until
from tests.apiserver.desk import Desk, condition, stage

STAGES = ("prepare", "train", "evaluate", "publish")
STOPPED = StageError(reason=Reason.STOPPED, message="stopped on request, at step 40", exit_code=75)

pytestmark = pytest.mark.usefixtures("operator")


def suspend(desk: Desk, value: bool = True) -> None:
    desk.api.merge("FineTuneJob", "intents", desk.namespace, {"spec": {"suspend": value}})


class TestSuspend:
    @pytest.mark.parametrize("in_stage", STAGES)
    def test_stops_the_run_and_resumes_it_later(self, desk: Desk, in_stage: str) -> None:
        desk.apply()
        child = desk.run_to(in_stage)
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, in_stage)["state"] == "Running", f"{in_stage} runs")
        suspend(desk)
        status = desk.until_phase("Suspending")
        assert condition(status, "Reconciling")["status"] == "True"
        desk.kubelet.stopped(desk.being_ended(child), 75, STOPPED)
        status = desk.until_phase("Suspended")
        assert condition(status, "Reconciling")["status"] == "False"
        assert condition(status, "Stalled")["status"] == "False"
        assert "failure" not in status
        assert stage(status, in_stage)["message"] == "Stopped on request."
        suspend(desk, False)
        again = desk.child(in_stage, attempt=2)
        desk.kubelet.succeed(again)
        for following in STAGES[STAGES.index(in_stage) + 1 :]:
            desk.kubelet.succeed(desk.child(following))
        status = desk.until_phase("Succeeded")
        assert status["revision"] == 1
        assert stage(status, in_stage)["restarts"] == 0

    def test_from_the_start_starts_nothing(self, desk: Desk) -> None:
        desk.apply(suspend=True)
        status = desk.until_phase("Suspended")
        assert desk.children() == []
        assert status["observedGeneration"] == 1
        suspend(desk, False)
        desk.run_all()

    def test_run_killed_while_suspending_is_not_a_failure(self, desk: Desk) -> None:
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        suspend(desk)
        desk.kubelet.stopped(desk.being_ended(child), 137)
        assert "failure" not in desk.until_phase("Suspended")

    def test_stage_that_succeeds_while_suspending_has_succeeded(self, desk: Desk) -> None:
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        suspend(desk)
        desk.being_ended(child)
        desk.kubelet.succeed(child)
        status = desk.until_phase("Suspended")
        assert stage(status, "train")["state"] == "Succeeded"

    def test_of_a_finished_job_changes_nothing(self, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        suspend(desk)
        status = desk.until(lambda status: status["observedGeneration"] == 2, "the change is observed")
        assert status["phase"] == "Succeeded"


class TestSpecChange:
    @pytest.mark.parametrize("in_stage", STAGES)
    def test_starts_the_next_revision(self, desk: Desk, in_stage: str) -> None:
        desk.apply()
        child = desk.run_to(in_stage)
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, in_stage)["state"] == "Running", f"{in_stage} runs")
        desk.apply(training={"learningRate": 1e-4})
        desk.kubelet.stopped(desk.being_ended(child), 75, STOPPED)
        first = desk.child("prepare", revision=2)
        config = first["spec"]["template"]["metadata"]["annotations"]["finetune.dev/stage-config"]
        assert '"revision":2' in config.replace(" ", "")
        desk.kubelet.succeed(first)
        for following in STAGES[1:]:
            desk.kubelet.succeed(desk.child(following, revision=2))
        status = desk.until_phase("Succeeded")
        assert (status["revision"], status["observedGeneration"]) == (2, 2)
        assert [(entry["revision"], entry["phase"]) for entry in status["history"]] == [(1, "Superseded")]

    def test_back_to_an_earlier_spec_continues_with_its_revision(self, desk: Desk) -> None:
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        desk.apply(training={"learningRate": 1e-4})
        desk.kubelet.stopped(desk.being_ended(child), 75, STOPPED)
        other = desk.child("prepare", revision=2)
        desk.kubelet.run(other)
        desk.apply()
        desk.kubelet.stopped(desk.being_ended(other), 75, STOPPED)
        for following in STAGES:
            attempt = 2 if following in ("prepare", "train") else 1
            desk.kubelet.succeed(desk.child(following, attempt=attempt))
        status = desk.until_phase("Succeeded")
        assert status["revision"] == 1
        assert [(entry["revision"], entry["phase"]) for entry in status["history"]] == [(2, "Superseded")]

    def test_of_the_evaluation_does_not_train_again(self, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        desk.apply(evaluation={"publishWorse": True})
        for following in ("prepare", "evaluate", "publish"):
            desk.kubelet.succeed(desk.child(following, revision=2))
        status = desk.until_phase("Succeeded")
        assert (status["revision"], stage(status, "train")["attempt"]) == (2, 0)
        assert condition(status, "Trained")["message"] == "Not trained again: the weights of revision 1 are used."
        assert "intents-r2-train-1" not in {child["metadata"]["name"] for child in desk.children()}

    def test_of_a_finished_job_keeps_the_old_result_in_the_history(self, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        desk.apply(training={"epochs": 1})
        status = desk.until(lambda status: status["revision"] == 2, "the second revision begins")
        (record,) = status["history"]
        assert (record["phase"], record["score"]) == ("Succeeded", "0.8400")
        assert record["artifact"]["uri"].startswith("s3://adapters/")

    def test_that_does_not_affect_the_result_continues(self, desk: Desk) -> None:
        desk.apply()
        desk.kubelet.run(desk.run_to("train"))
        desk.apply(resilience={"maxRestarts": 7}, training={"epochs": 3}, output={"uri": "s3://adapters"})
        status = desk.until(lambda status: status["observedGeneration"] == 2, "the change is observed")
        assert (status["revision"], status["phase"]) == (1, "Training")

    def test_applying_the_same_spec_changes_nothing(self, desk: Desk) -> None:
        desk.apply()
        desk.run_all()
        before = desk.job()
        desk.apply()
        assert desk.job()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


class TestDeletion:
    @pytest.mark.parametrize("in_stage", STAGES)
    def test_leaves_no_objects(self, desk: Desk, in_stage: str) -> None:
        """There is no garbage collector here, so the test checks the owner references."""
        desk.apply(distributed={"workers": 2})
        child = desk.run_to(in_stage)
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, in_stage)["state"] == "Running", f"{in_stage} runs")
        found = desk.job()
        assert "finalizers" not in found["metadata"]
        assert "annotations" not in found["metadata"]
        desk.api.delete("FineTuneJob", "intents", desk.namespace)
        assert desk.api.find("FineTuneJob", "intents", desk.namespace) is None
        for kind in ("Job", "Service"):
            for left in desk.api.list(kind, desk.namespace):
                (owner,) = left["metadata"]["ownerReferences"]
                assert (owner["kind"], owner["uid"]) == ("FineTuneJob", found["metadata"]["uid"])

    def test_same_name_again_is_another_job(self, desk: Desk) -> None:
        desk.apply()
        old = desk.run_to("train")
        desk.api.delete("FineTuneJob", "intents", desk.namespace)
        for child in desk.children():
            desk.api.delete("Job", child["metadata"]["name"], desk.namespace, propagationPolicy="Background")
        desk.apply()
        first = desk.child("prepare")
        assert first["metadata"]["ownerReferences"][0]["uid"] != old["metadata"]["ownerReferences"][0]["uid"]
        desk.run_all()

    def test_same_name_with_another_spec_uses_the_next_storage_directory(self, desk: Desk) -> None:
        desk.apply()
        taken = StageError(reason=Reason.REVISION_TAKEN, message="…/r1 is that of another spec", exit_code=64)
        desk.kubelet.break_(desk.child("prepare"), 64, taken)
        desk.kubelet.succeed(desk.child("prepare", revision=2))
        for following in STAGES[1:]:
            desk.kubelet.succeed(desk.child(following, revision=2))
        status = desk.until_phase("Succeeded")
        assert (status["revision"], status["history"]) == (2, [])
        assert desk.until_event("NewRevision")["message"] == (
            "The storage of revision 1 belongs to an earlier job of the same name, or to other data; "
            "continuing as revision 2."
        )


class TestChildren:
    def test_deleted_child_is_restarted(self, desk: Desk) -> None:
        desk.apply()
        child = desk.run_to("train")
        desk.kubelet.run(child)
        desk.until(lambda status: stage(status, "train")["state"] == "Running", "train runs")
        desk.api.delete("Job", child["metadata"]["name"], desk.namespace, propagationPolicy="Background")
        again = desk.child("train", attempt=2)
        status = desk.status()
        assert status["failure"]["retried"]
        assert "was removed" in status["failure"]["message"]
        desk.kubelet.succeed(again)

    def test_suspended_child_is_pending_with_a_cause(self, desk: Desk) -> None:
        desk.apply()
        child = desk.child("prepare")
        name = child["metadata"]["name"]
        desk.api.merge("Job", name, desk.namespace, {"spec": {"suspend": True}})
        condition_ = {"type": "Suspended", "status": "True", "reason": "JobSuspended"}
        desk.api.merge_status("Job", name, desk.namespace, {"conditions": [condition_]})
        status = desk.until(lambda status: stage(status, "prepare").get("waitingFor"), "it is pending")
        assert "is suspended" in condition(status, "DataPrepared")["message"]

    def test_deleted_finished_children_restart_nothing(self, desk: Desk) -> None:
        desk.apply()
        before = desk.run_all()
        for child in desk.children():
            desk.api.delete("Job", child["metadata"]["name"], desk.namespace, propagationPolicy="Background")
        desk.apply("other")
        desk.run_all("other")
        assert [
            child for child in desk.children() if child["metadata"]["labels"]["finetune.dev/job"] == "intents"
        ] == []
        assert desk.status() == before


class TestEndOfLife:
    def test_job_is_deleted_after_its_ttl_and_not_restarted(self, desk: Desk) -> None:
        desk.apply(resilience={"ttlSecondsAfterFinished": 1})
        desk.kubelet.succeed(desk.run_to("publish"))
        wait_until(lambda: desk.api.find("FineTuneJob", "intents", desk.namespace) is None, "the job is deleted")

    def test_deadline_stops_the_run_and_fails_the_job(self, desk: Desk) -> None:
        desk.apply(resilience={"activeDeadlineSeconds": 2})
        child = desk.child("prepare")
        desk.kubelet.run(child)
        desk.kubelet.stopped(desk.being_ended(child), 75, STOPPED)
        status = desk.until_phase("Failed")
        assert status["failure"]["reason"] == "DeadlineExceeded"
        assert "activeDeadlineSeconds" in condition(status, "Ready")["message"]

    def test_result_below_a_gate_is_rejected(self, desk: Desk) -> None:
        desk.apply(evaluation={"gates": [{"metric": "accuracy", "minimum": 0.9}]})
        desk.kubelet.succeed(desk.run_to("evaluate"))
        status = desk.until_phase("Rejected")
        assert status["failure"]["reason"] == "GateFailed"
        assert conditions({"status": status})["Stalled"]["status"] == "True"
        assert desk.api.find("Job", "intents-r1-publish-1", desk.namespace) is None
