"""The pod of a stage. It meets the restricted Pod Security Standard and has no Kubernetes credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.stage import CA_BUNDLE_VARIABLE, HEARTBEAT_NAME, Device, Stage, StageConfig
from finetune_core.names import CONTAINER, STAGE_ANNOTATION, labels
from finetune_core.runs import StageRun
from finetune_operator.resources.sandbox import MOUNT, sandbox_container, sandbox_volumes
from finetune_operator.resources.secrets import environment_from
from finetune_operator.settings import TrainerSettings

GRACE_SECONDS = 300
"""Time for a last checkpoint, for example when a node is drained."""

_CONFIG_DIRECTORY = "/etc/finetune"
_CA_DIRECTORY = "/etc/finetune-ca"
_CA_FILE = "ca.crt"
_WORKSPACE = "/workspace"
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""The security context of every container."""


def pod_template(
    run: StageRun,
    config: StageConfig,
    settings: TrainerSettings,
    *,
    subdomain: str | None,
    avoided_nodes: Sequence[str],
    job_labels: Mapping[str, str],
) -> dict[str, Any]:
    """The pod template of a run, with ``job_labels``; ``config`` is an annotation of it, so no ConfigMap is needed.

    A pod with GPUs prefers nodes that are not in ``avoided_nodes``.
    """
    stage_pod = settings.pod(run.id.stage)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(run, config, settings)],
        "volumes": _volumes(run, settings),
    }
    if run.runs_code:
        spec["initContainers"] = [sandbox_container(settings, _SECURITY)]
    optional = {
        "serviceAccountName": settings.service_account_name,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": stage_pod.node_selector,
        "tolerations": list(stage_pod.tolerations),
        "affinity": _affinity(stage_pod.affinity, avoided_nodes if run.world.device is Device.GPU else ()),
        "priorityClassName": stage_pod.priority_class_name,
        "schedulerName": stage_pod.scheduler_name,
        "runtimeClassName": stage_pod.runtime_class_name,
        "subdomain": subdomain,
    }
    annotations = {**stage_pod.annotations, STAGE_ANNOTATION: config.model_dump_json(exclude_none=True)}
    return {
        "metadata": {
            "labels": {**stage_pod.labels, **job_labels, **labels(run.job.name, run.id)},
            "annotations": annotations,
        },
        "spec": spec | {name: value for name, value in optional.items() if value},
    }


def _container(run: StageRun, config: StageConfig, settings: TrainerSettings) -> dict[str, Any]:
    stage_pod = settings.pod(run.id.stage)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": [str(run.id.stage), "--config", f"{_CONFIG_DIRECTORY}/stage.json"],
        "env": [{"name": "HOME", "value": _WORKSPACE}, *_ca_variable(settings), *stage_pod.env],
        "ports": [{"name": "metrics", "containerPort": config.port}],
        "resources": _resources(run, settings),
        "readinessProbe": _readiness_probe(run),
        "securityContext": _SECURITY,
        "terminationMessagePath": config.termination_message_path,
        # If a stage crashes without a report, the last log line often says why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_DIRECTORY, "readOnly": True},
            {"name": "workspace", "mountPath": _WORKSPACE},
            {"name": "tmp", "mountPath": "/tmp"},
            *([{"name": "ca", "mountPath": _CA_DIRECTORY, "readOnly": True}] if settings.ca_bundle else []),
            *([MOUNT] if run.runs_code else []),
            *([{"name": "shared-memory", "mountPath": "/dev/shm"}] if _has_shared_memory(run) else []),
        ],
    }
    environment = environment_from(run.id.stage, run.spec)
    return container | ({"envFrom": environment} if environment else {})


def _readiness_probe(run: StageRun) -> dict[str, Any]:
    """A pod is ready while its stage makes progress, by the clock of its own node, and without the network."""
    command = ["python", "-S", "-m", "finetune_trainer.host.heartbeat", f"{_WORKSPACE}/{HEARTBEAT_NAME}"]
    return {
        "exec": {"command": [*command, str(run.spec.resilience.stall_timeout_seconds)]},
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": 1,
    }


def _ca_variable(settings: TrainerSettings) -> list[dict[str, Any]]:
    return [{"name": CA_BUNDLE_VARIABLE, "value": f"{_CA_DIRECTORY}/{_CA_FILE}"}] if settings.ca_bundle else []


def _affinity(configured: Mapping[str, Any], avoided_nodes: Sequence[str]) -> dict[str, Any]:
    """``configured``, with a preference (not a requirement) for nodes that are not in ``avoided_nodes``."""
    if not avoided_nodes:
        return dict(configured)
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    node_affinity = configured.get("nodeAffinity", {})
    # A field selector accepts one value only.
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in avoided_nodes]
    terms = [*node_affinity.get(preferred, ()), {"weight": 100, "preference": {"matchFields": others}}]
    return {**configured, "nodeAffinity": {**node_affinity, preferred: terms}}


def _resources(run: StageRun, settings: TrainerSettings) -> dict[str, Any]:
    resources = {kind: dict(amounts) for kind, amounts in settings.pod(run.id.stage).resources.items()}
    if run.world.device is Device.GPU:
        resources.setdefault("limits", {})[settings.gpu_resource] = str(run.world.processes_per_worker)
    return resources


def _volumes(run: StageRun, settings: TrainerSettings) -> list[dict[str, Any]]:
    stage_pod = settings.pod(run.id.stage)
    stage_json = {"path": "stage.json", "fieldRef": {"fieldPath": f"metadata.annotations['{STAGE_ANNOTATION}']"}}
    volumes: list[dict[str, Any]] = [
        {"name": "config", "downwardAPI": {"items": [stage_json]}},
        {"name": "workspace", "emptyDir": {"sizeLimit": stage_pod.workspace}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if bundle := settings.ca_bundle:
        items = [{"key": bundle.key, "path": _CA_FILE}]
        volumes.append({"name": "ca", "configMap": {"name": bundle.config_map, "items": items}})
    if run.runs_code:
        volumes += sandbox_volumes()
    if _has_shared_memory(run):
        # NCCL, Gloo and data loaders share tensors in /dev/shm, which has only 64 MiB by default.
        volumes.append(
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": stage_pod.shared_memory}}
        )
    return volumes


def _has_shared_memory(run: StageRun) -> bool:
    return run.id.stage in (Stage.RESPOND, Stage.TRAIN, Stage.EVALUATE)
