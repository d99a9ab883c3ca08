"""The child Jobs, pods and Services: restricted, with valid names, and with no more permissions than they need."""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.stage import CA_BUNDLE_VARIABLE, STAGES, JobIdentity, Stage, StageConfig
from finetune_core import names
from finetune_core.policies.world import world_of
from finetune_core.runs import RunId, StageRun
from finetune_operator.resources.job import stage_job, workers_service
from finetune_operator.settings import CaBundle, StagePod, TrainerSettings
from tests.builders import a_job

SETTINGS = TrainerSettings(image="finetune-trainer:test")
DNS_LABEL = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LETTER = st.sampled_from(string.ascii_lowercase + string.digits)
# Strings that match DNS_LABEL; hypothesis generates them from an alphabet twice as fast as from a pattern.
job_names = _LETTER | st.tuples(
    _LETTER, st.text(f"{string.ascii_lowercase}{string.digits}-", max_size=61), _LETTER
).map("".join)


def a_stage_run(
    stage: Stage = Stage.TRAIN, name: str = "intents", attempt: int = 1, revision: int = 1, **spec: Any
) -> StageRun:
    job = a_job(**spec)
    identity = {
        "namespace": "team-a",
        "name": name,
        "uid": "uid-1",
        "revision": revision,
        "spec_digest": "sha256:1",
        "training_revision": revision,
        "training_digest": "sha256:1",
    }
    return StageRun(
        id=RunId(revision, stage, attempt),
        job=JobIdentity(**identity),  # type: ignore[arg-type]
        world=world_of(stage, job.spec),
        spec=job.spec,
    )


def made(stage: Stage = Stage.TRAIN, settings: TrainerSettings = SETTINGS, **spec: Any) -> dict[str, Any]:
    return stage_job(a_stage_run(stage, **spec), settings)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(job)["containers"]
    found: dict[str, Any] = container
    return found


def stage_json(job: dict[str, Any]) -> StageConfig:
    return StageConfig.model_validate_json(job["spec"]["template"]["metadata"]["annotations"][names.STAGE_ANNOTATION])


def test_a_dry_run_says_so_in_its_configuration() -> None:
    run = a_stage_run(Stage.PREPARE)
    assert not run.config().dry_run
    assert replace(run, dry_run=True).config().dry_run


class TestCopiedLabels:
    def test_are_those_that_the_settings_name(self) -> None:
        settings = TrainerSettings(image="finetune-trainer:test", copied_labels=("team", "absent", "finetune-dev/job"))
        found = {"team": "search", "app.kubernetes.io/instance": "models", "finetune.dev/job": "other"}
        job = stage_job(a_stage_run(), settings, job_labels=found)
        for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
            assert (labels["team"], labels[names.JOB_LABEL]) == ("search", "intents")
            assert not {"app.kubernetes.io/instance", "absent"} & labels.keys()

    @pytest.mark.parametrize(
        "label",
        [
            "app.kubernetes.io/instance",
            "argocd.argoproj.io/instance",
            "kustomize.toolkit.fluxcd.io/name",
            "finetune.dev/job",
            "job-name",
        ],
    )
    def test_are_never_those_of_a_program(self, label: str) -> None:
        with pytest.raises(ValidationError, match="cannot be copied"):
            TrainerSettings(image="finetune-trainer:test", copied_labels=(label,))


@pytest.mark.parametrize("stage", STAGES)
class TestEveryStage:
    def test_meets_the_restricted_pod_security_standard(self, stage: Stage) -> None:
        """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
        job = made(stage)
        pod, container = pod_of(job), container_of(job)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {"downwardAPI", "emptyDir"}
        assert not any("hostPort" in port for port in container["ports"])

    def test_has_no_kubernetes_credentials(self, stage: Stage) -> None:
        assert pod_of(made(stage))["automountServiceAccountToken"] is False

    def test_mounts_a_volume_for_every_path_that_it_writes(self, stage: Stage) -> None:
        job = made(stage)
        container = container_of(job)
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod_of(job)["volumes"]}
        assert {"/tmp", "/workspace"} <= {mount["mountPath"] for mount in container["volumeMounts"]}

    def test_trusts_the_certificate_authorities_of_the_cluster(self, stage: Stage) -> None:
        bundle = CaBundle(config_map="private-ca", key="root.pem")
        job = made(stage, settings=TrainerSettings(image="x", ca_bundle=bundle))
        (variable,) = (one for one in container_of(job)["env"] if one["name"] == CA_BUNDLE_VARIABLE)
        (mount,) = (one for one in container_of(job)["volumeMounts"] if one["name"] == "ca")
        (volume,) = (one for one in pod_of(job)["volumes"] if one["name"] == "ca")
        assert volume["configMap"] == {"name": "private-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
        assert (variable["value"], mount["readOnly"]) == (f"{mount['mountPath']}/ca.crt", True)
        assert not {"ca"} & {volume["name"] for volume in pod_of(made(stage))["volumes"]}

    def test_is_not_retried_by_kubernetes(self, stage: Stage) -> None:
        job = made(stage)
        assert (job["spec"]["backoffLimit"], pod_of(job)["restartPolicy"]) == (0, "Never")

    def test_is_owned_by_the_job_without_blocking_its_deletion(self, stage: Stage) -> None:
        (owner,) = made(stage)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("FineTuneJob", "uid-1", True)
        assert owner["blockOwnerDeletion"] is False

    def test_gets_its_stage_config(self, stage: Stage) -> None:
        job = made(stage)
        config = stage_json(job)
        assert (config.stage, config.attempt, config.job.name) == (stage, 1, "intents")
        assert container_of(job)["args"][0] == stage
        assert container_of(job)["terminationMessagePath"] == config.termination_message_path
        assert container_of(job)["ports"][0]["containerPort"] == config.port

    def test_has_identifying_labels(self, stage: Stage) -> None:
        job = made(stage)
        for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
            assert names.run_of(metadata["labels"]) == ("intents", RunId(1, stage, 1))

    def test_manifest_is_deterministic(self, stage: Stage) -> None:
        assert json.dumps(made(stage)) == json.dumps(made(stage))


class TestGpus:
    def test_are_requested_by_stages_that_load_a_model(self) -> None:
        requested = {
            stage: container_of(made(stage, distributed={"gpusPerWorker": 4}))["resources"].get("limits", {})
            for stage in STAGES
        }
        assert requested == {
            Stage.PREPARE: {},
            Stage.RESPOND: {"nvidia.com/gpu": "1"},
            Stage.TRAIN: {"nvidia.com/gpu": "4"},
            Stage.EVALUATE: {"nvidia.com/gpu": "1"},
            Stage.PUBLISH: {},
        }

    def test_are_not_requested_on_cpu(self) -> None:
        assert container_of(made(distributed={"gpusPerWorker": 0}))["resources"] == {}

    def test_nodes_without_gpus_are_avoided(self) -> None:
        """A preference only: if no other node is free, the same one may be used again."""
        zone = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
        kind = "preferredDuringSchedulingIgnoredDuringExecution"
        configured = {"podAffinity": {}, "nodeAffinity": {kind: [zone]}}
        settings = TrainerSettings(image="x", stages={stage: StagePod(affinity=configured) for stage in STAGES})
        affinity = {stage: pod_of(stage_job(a_stage_run(stage), settings, ["a", "b"]))["affinity"] for stage in STAGES}
        others = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("a", "b")]
        elsewhere = {"weight": 100, "preference": {"matchFields": others}}
        on_gpus = {"podAffinity": {}, "nodeAffinity": {kind: [zone, elsewhere]}}
        assert affinity == {
            Stage.PREPARE: configured,
            Stage.RESPOND: on_gpus,
            Stage.TRAIN: on_gpus,
            Stage.EVALUATE: on_gpus,
            Stage.PUBLISH: configured,
        }

    def test_resource_name_is_configurable_and_other_resources_are_kept(self) -> None:
        stages = {Stage.TRAIN: StagePod(resources={"limits": {"memory": "64Gi"}})}
        settings = TrainerSettings(image="x", gpu_resource="amd.com/gpu", stages=stages)
        assert container_of(made(settings=settings))["resources"]["limits"] == {"memory": "64Gi", "amd.com/gpu": "1"}
        assert settings.pod(Stage.TRAIN).resources == {"limits": {"memory": "64Gi"}}


class TestGang:
    SPEC: dict[str, Any] = {"distributed": {"workers": 4, "gpusPerWorker": 2}}  # noqa: RUF012

    def test_is_one_indexed_job(self) -> None:
        spec = made(**self.SPEC)["spec"]
        assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
        assert spec["podReplacementPolicy"] == "Failed"

    def test_rendezvous_uses_the_service_name_of_worker_0(self) -> None:
        job = made(**self.SPEC)
        service = workers_service(a_stage_run(**self.SPEC).job)
        assert pod_of(job)["subdomain"] == service["metadata"]["name"]
        assert stage_json(job).main_address == f"{job['metadata']['name']}-0.{service['metadata']['name']}"

    def test_service_publishes_addresses_before_pods_are_ready(self) -> None:
        spec = workers_service(a_stage_run(**self.SPEC).job)["spec"]
        assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
        labels = made(**self.SPEC)["spec"]["template"]["metadata"]["labels"]
        assert spec["selector"].items() <= labels.items()

    def test_single_worker_has_no_service(self) -> None:
        assert "subdomain" not in pod_of(made())
        assert stage_json(made()).main_address == "127.0.0.1"


class TestSecrets:
    SPEC: dict[str, Any] = {  # noqa: RUF012
        "model": {
            "uri": "hf://owner/encoder",
            "secretRef": {"name": "hub"},
            "adapter": {"uri": "s3://published/x", "secretRef": {"name": "adapter"}},
        },
        "dataset": {"train": {"uri": "s3://data/x", "secretRef": {"name": "data"}}},
        "output": {"uri": "s3://adapters", "secretRef": {"name": "out"}},
    }

    @pytest.mark.parametrize(
        ("stage", "given"),
        [
            (Stage.PREPARE, {"hub", "adapter", "data", "out"}),
            (Stage.TRAIN, {"hub", "out"}),
            (Stage.EVALUATE, {"hub", "out"}),
            (Stage.PUBLISH, {"out"}),
        ],
    )
    def test_reach_only_the_stages_that_need_them(self, stage: Stage, given: set[str]) -> None:
        sources = container_of(made(stage, **self.SPEC))["envFrom"]
        assert {source["secretRef"]["name"] for source in sources} == given
        assert all(source["prefix"].startswith("FINETUNE_SECRET_") for source in sources)

    @pytest.mark.parametrize(
        ("stage", "given"),
        [
            (Stage.PREPARE, {"teacher", "api"}),
            (Stage.TRAIN, {"teacher"}),
            (Stage.EVALUATE, {"teacher"}),
            (Stage.PUBLISH, set()),
        ],
    )
    def test_of_a_teacher_reach_only_the_stages_that_need_them(self, stage: Stage, given: set[str]) -> None:
        loaded = {"teacher": {"uri": "s3://models/x", "secretRef": {"name": "teacher"}}}
        endpoint = {"url": "https://models.example/v1", "model": "x", "secretRef": {"name": "api"}}
        asked = {"teacher": {"endpoint": endpoint}, "mode": "Responses"}
        task = {"type": "InstructionTuning"}
        named = {
            source["secretRef"]["name"]
            for distillation in (loaded, asked)
            for source in container_of(made(stage, task=task, distillation=distillation)).get("envFrom", ())
        }
        assert named == given

    @pytest.mark.parametrize(
        ("stage", "given"),
        [
            (Stage.PREPARE, {}),
            (Stage.TRAIN, {"ENDPOINT": "model-key", "PROPOSER": "proposer-key"}),
            (Stage.EVALUATE, {"ENDPOINT": "model-key"}),
            (Stage.PUBLISH, {}),
        ],
    )
    def test_of_a_prompt_search_reach_only_the_stages_that_ask(self, stage: Stage, given: dict[str, str]) -> None:
        endpoint = {"url": "https://models.example/v1", "model": "x", "secretRef": {"name": "model-key"}}
        proposer = {"url": "https://other.example/v1", "model": "y", "secretRef": {"name": "proposer-key"}}
        method = {"type": "PromptSearch", "promptSearch": {"propose": 2, "proposer": proposer}}
        container = container_of(made(stage, model={"endpoint": endpoint}, method=method))
        found = {source["prefix"]: source["secretRef"]["name"] for source in container.get("envFrom", ())}
        assert found == {f"FINETUNE_SECRET_{role}_": name for role, name in given.items()}

    def test_no_secret_reference_means_no_env_from(self) -> None:
        assert "envFrom" not in container_of(made())


def test_settings_apply_to_the_pods_of_a_stage() -> None:
    pod = StagePod(
        node_selector={"pool": "gpu"},
        tolerations=({"key": "gpu"},),
        labels={"team": "ml", names.JOB_LABEL: "forged"},
        annotations={"note": "x"},
        env=({"name": "AWS_ENDPOINT_URL", "value": "http://minio"},),
        priority_class_name="batch",
        scheduler_name="volcano",
    )
    settings = TrainerSettings(image="x", image_pull_secrets=("registry",), stages={Stage.TRAIN: pod})
    job = made(settings=settings)
    assert pod_of(job)["nodeSelector"] == {"pool": "gpu"}
    assert pod_of(job)["imagePullSecrets"] == [{"name": "registry"}]
    assert pod_of(job)["priorityClassName"] == "batch"
    assert pod_of(job)["schedulerName"] == "volcano"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels[names.JOB_LABEL]) == ("ml", "intents")
    assert {"name": "AWS_ENDPOINT_URL", "value": "http://minio"} in container_of(job)["env"]
    assert "nodeSelector" not in pod_of(made(Stage.PREPARE, settings))


class TestNames:
    @given(
        name=job_names,
        stage=st.sampled_from(STAGES),
        revision=st.integers(1, 99999),
        attempt=st.integers(1, 9999),
        worker=st.integers(0, 1023),
    )
    def test_are_dns_labels_for_every_job_name(
        self, name: str, stage: Stage, revision: int, attempt: int, worker: int
    ) -> None:
        run = names.run_name(name, RunId(revision, stage, attempt))
        assert DNS_LABEL.fullmatch(f"{run}-{worker}"), run
        # The name of a Service begins with a letter before Kubernetes 1.36.
        assert DNS_LABEL.fullmatch(names.service_name(name))
        assert names.service_name(name)[0].isalpha()

    @given(first=job_names, second=job_names)
    def test_of_two_jobs_differ(self, first: str, second: str) -> None:
        run = RunId(1, Stage.TRAIN, 1)
        assert (names.run_name(first, run) == names.run_name(second, run)) == (first == second)
        assert (names.service_name(first) == names.service_name(second)) == (first == second)

    @given(
        name=job_names,
        runs=st.tuples(*[st.tuples(st.integers(1, 99), st.sampled_from(STAGES), st.integers(1, 99))] * 2),
    )
    def test_of_two_runs_differ(self, name: str, runs: tuple[tuple[int, Stage, int], tuple[int, Stage, int]]) -> None:
        one, other = RunId(*runs[0]), RunId(*runs[1])
        assert (names.run_name(name, one) == names.run_name(name, other)) == (one == other)

    @given(name=job_names, stage=st.sampled_from(STAGES), revision=st.integers(1, 99999), attempt=st.integers(1, 9999))
    def test_run_is_parsed_back_from_labels(self, name: str, stage: Stage, revision: int, attempt: int) -> None:
        run = RunId(revision, stage, attempt)
        labels = names.labels(name, run)
        assert names.run_of(labels) == (name, run)
        assert all(len(value) <= 63 for value in labels.values())
