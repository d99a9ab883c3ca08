"""Jobs that run generated programs: refused unless the operator allows it, and then with a second container."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.failures import Reason
from finetune_api.job import ConditionType, FineTuneJob, FineTuneJobStatus, Phase
from finetune_api.stage import CodeExecution, Stage, StageConfig
from finetune_core import names
from finetune_core.reconcile import plan
from finetune_core.runs import Observed, ObservedRun, Plan, Refusal, RunState
from finetune_operator.admission import refusal
from finetune_operator.events import events_between
from finetune_operator.resources.job import stage_job
from finetune_operator.resources.sandbox import SOCKET
from finetune_operator.settings import CaBundle, StagePod, TrainerSettings
from finetune_operator.settings import CodeExecution as CodeExecutionSettings
from tests.builders import RUNS_CODE, a_job, a_run, after, condition, succeeded
from tests.unit.test_resources_job import a_stage_run
from tests.usual_stages import STAGES

FORBIDS = TrainerSettings(image="finetune-trainer:test")
ALLOWS = TrainerSettings(image="finetune-trainer:test", code_execution=CodeExecutionSettings(allowed=True))


def pass_(job: FineTuneJob, settings: TrainerSettings, *runs: ObservedRun) -> tuple[FineTuneJob, Plan]:
    made = plan(job, Observed(runs, refusal=refusal(job.spec, settings)), after(seconds=10))
    return job.model_copy(update={"status": made.status}), made


class TestRefusal:
    def test_is_only_for_jobs_that_run_programs(self) -> None:
        assert refusal(a_job().spec, FORBIDS) is None
        assert refusal(a_job(**RUNS_CODE).spec, ALLOWS) is None
        refused = refusal(a_job(**RUNS_CODE).spec, FORBIDS)
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.CODE_EXECUTION_FORBIDDEN
        assert "trainer.codeExecution.allowed" in refused.message

    def test_starts_nothing_and_is_stable(self) -> None:
        job, made = pass_(a_job(**RUNS_CODE), FORBIDS)
        assert (made.start, made.requeue_after) == ((), None)
        assert job.status.phase is Phase.FAILED
        for type_, truth in ((ConditionType.ACCEPTED, "False"), (ConditionType.STALLED, "True")):
            found = condition(job.status, type_)
            assert (found.status, found.reason) == (truth, "CodeExecutionForbidden")
            assert "spec.evaluation.allowCodeExecution" in found.message
        again = plan(job, Observed(refusal=refusal(job.spec, FORBIDS)), after(hours=1))
        assert again.status == job.status, "a reconcile without news writes nothing"

    def test_ends_by_itself_when_the_operator_allows_it(self) -> None:
        job, _ = pass_(a_job(**RUNS_CODE), FORBIDS)
        job, made = pass_(job, ALLOWS)
        assert [run.id.stage for run in made.start] == [Stage.PREPARE]
        assert condition(job.status, ConditionType.ACCEPTED).status == "True"
        assert job.status.phase is Phase.PREPARING

    def test_stops_a_run_that_was_allowed_before_and_goes_on_with_its_stage(self) -> None:
        job, _ = pass_(a_job(**RUNS_CODE), ALLOWS, succeeded(Stage.PREPARE))
        job, made = pass_(job, FORBIDS, succeeded(Stage.PREPARE), a_run(Stage.TRAIN))
        assert [stop.id.stage for stop in made.stop] == [Stage.TRAIN]
        assert condition(job.status, ConditionType.ACCEPTED).status == "False"
        stopped = a_run(Stage.TRAIN, RunState.STOPPED, finished_at=after(seconds=20))
        job, _ = pass_(job, FORBIDS, succeeded(Stage.PREPARE), stopped)
        job, made = pass_(job, ALLOWS, succeeded(Stage.PREPARE), stopped)
        assert [(run.id.stage, run.id.attempt) for run in made.start] == [(Stage.TRAIN, 2)]

    def test_leaves_a_finished_job_as_it_is(self) -> None:
        runs = [succeeded(stage) for stage in STAGES]
        job, _ = pass_(a_job(**RUNS_CODE), ALLOWS, *runs)
        job, _ = pass_(job, FORBIDS, *runs)
        assert job.status.phase is Phase.SUCCEEDED

    def test_is_an_event(self) -> None:
        job, _ = pass_(a_job(**RUNS_CODE), FORBIDS)
        found = [event for event in events_between(FineTuneJobStatus(), job.status) if event.type == "Warning"]
        assert [event.reason for event in found] == ["CodeExecutionForbidden"]


def pod_of(stage: Stage, settings: TrainerSettings = ALLOWS, **spec: Any) -> dict[str, Any]:
    template: dict[str, Any] = stage_job(a_stage_run(stage, **(spec or RUNS_CODE)), settings)["spec"]["template"]
    return template


def sidecar(settings: TrainerSettings = ALLOWS) -> dict[str, Any]:
    (found,) = pod_of(Stage.EVALUATE, settings)["spec"]["initContainers"]
    container: dict[str, Any] = found
    return container


def stage_config(template: dict[str, Any]) -> StageConfig:
    return StageConfig.model_validate_json(template["metadata"]["annotations"][names.STAGE_ANNOTATION])


class TestSidecar:
    @pytest.mark.parametrize("stage", Stage)
    def test_is_beside_stages_that_run_programs_only(self, stage: Stage) -> None:
        template = pod_of(stage)
        runs_code = stage in (Stage.PREPARE, Stage.RESPOND, Stage.EVALUATE)
        assert ("initContainers" in template["spec"]) is runs_code
        assert stage_config(template).code_execution == (CodeExecution(socket=SOCKET) if runs_code else None)

    def test_is_beside_a_train_stage_that_measures_answers(self) -> None:
        method = {"type": "PromptSearch", "promptSearch": {"candidates": ["{prompt}"]}}
        assert "initContainers" in pod_of(Stage.TRAIN, **RUNS_CODE, method=method)["spec"]

    @pytest.mark.parametrize("stage", STAGES)
    def test_is_not_there_for_other_jobs(self, stage: Stage) -> None:
        template = pod_of(stage, task={"type": "TextClassification"})
        assert "initContainers" not in template["spec"]
        assert "sandbox" not in {volume["name"] for volume in template["spec"]["volumes"]}
        assert stage_config(template).code_execution is None

    def test_starts_before_the_stage_and_does_not_keep_the_pod_alive(self) -> None:
        assert sidecar()["restartPolicy"] == "Always"
        assert sidecar()["startupProbe"]["exec"]["command"][-1] == SOCKET

    def test_meets_the_restricted_standard_as_another_user(self) -> None:
        security = sidecar()["securityContext"]
        assert security == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "runAsUser": 65533,
            "runAsGroup": 65533,
        }
        pod = pod_of(Stage.EVALUATE)["spec"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"shareProcessNamespace", "hostPID"} & set(pod)

    def test_gets_nothing_of_the_job(self) -> None:
        pods = {stage: StagePod(env=({"name": "AWS_ENDPOINT_URL", "value": "http://s3"},)) for stage in STAGES}
        bundle = CaBundle(config_map="private-ca")
        settings = ALLOWS.model_copy(update={"stages": pods, "ca_bundle": bundle})
        container = sidecar(settings)
        assert not {"env", "envFrom", "ports", "args"} & set(container)
        assert {mount["name"] for mount in container["volumeMounts"]} == {"sandbox", "programs"}
        spec = pod_of(Stage.EVALUATE, settings)["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert all("emptyDir" in volumes[name] for name in ("sandbox", "programs"))
        (stage,) = spec["containers"]
        assert "programs" not in {mount["name"] for mount in stage["volumeMounts"]}

    def test_has_the_resources_of_the_settings(self) -> None:
        assert sidecar()["resources"]["limits"] == {"memory": "6Gi"}
        chosen = CodeExecutionSettings(allowed=True, resources={"limits": {"memory": "2Gi"}})
        assert sidecar(ALLOWS.model_copy(update={"code_execution": chosen}))["resources"] == chosen.resources
