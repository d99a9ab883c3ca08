"""The operator's settings: a JSON file, which the chart writes from its values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from finetune_api.stage import Stage


class SettingsError(Exception):
    """The settings file is missing or invalid; the message says which field and why."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)


_OWNED = re.compile(
    r"app\.kubernetes\.io/(instance|name|managed-by)|([^/]*\.)?(finetune\.dev|argoproj\.io|fluxcd\.io)/.*|"
    r"batch\.kubernetes\.io/.*|job-name|controller-uid"
)
"""Labels by which a program recognises its objects. Argo CD or Flux would delete Jobs and pods that have its label."""


def _check_copied(label: str) -> str:
    if _OWNED.fullmatch(label):
        raise ValueError(f"{label} cannot be copied: a program recognises its own objects by it")
    return label


CopiedLabel = Annotated[str, AfterValidator(_check_copied)]


class StagePod(_Model):
    """Pod settings of one stage, in addition to those of the job. Fields are those of a Kubernetes pod."""

    resources: dict[str, dict[str, str | int]] = Field(
        default={}, description="Requests and limits of the container. GPUs are added from the job."
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels of the nodes that the pod may run on.")
    tolerations: tuple[dict[str, Any], ...] = Field(default=(), description="Taints that the pod tolerates.")
    affinity: dict[str, Any] = Field(default={}, description="Affinity of the pod.")
    labels: dict[str, str] = Field(default={}, description="Additional labels.")
    annotations: dict[str, str] = Field(default={}, description="Additional annotations.")
    env: tuple[dict[str, Any], ...] = Field(default=(), description="Additional variables, such as an S3 endpoint.")
    priority_class_name: str | None = Field(default=None, description="Priority class.")
    scheduler_name: str | None = Field(default=None, description="Scheduler, such as one that schedules gangs.")
    runtime_class_name: str | None = Field(default=None, description="Runtime class.")
    shared_memory: str = Field(default="8Gi", description="Size of /dev/shm, which counts as memory.")
    workspace: str = Field(default="50Gi", description="Size of the scratch volume.")


class CaBundle(_Model):
    """Certificate authorities that stages trust besides the public ones."""

    config_map: str = Field(min_length=1, description="Name of a ConfigMap in the jobs' namespaces.")
    key: str = Field(default="ca.crt", min_length=1, description="Key with PEM certificates.")


class CodeExecution(_Model):
    """Whether jobs may run generated programs, and the container in which they do."""

    allowed: bool = Field(default=False, description="Whether jobs with evaluation.allowCodeExecution are run.")
    resources: dict[str, dict[str, str | int]] = Field(
        default={"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "6Gi"}},
        description="Requests and limits of the container. It runs up to four programs at once, with 1 GiB each.",
    )


class TrainerSettings(_Model):
    """The image and the pods of stages."""

    image: str = Field(description="Image of the trainer.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = Field(default=(), description="Names of Secrets in the jobs' namespaces.")
    service_account_name: str | None = Field(
        default=None, description="Service account of the pods, for workload identity; its token is not mounted."
    )
    gpu_resource: str = Field(default="nvidia.com/gpu", description="Resource name of a GPU.")
    copied_labels: tuple[CopiedLabel, ...] = Field(
        default=(), description="Labels that Jobs and pods get if the FineTuneJob has them."
    )
    ca_bundle: CaBundle | None = Field(default=None, description="Certificate authorities of the cluster.")
    code_execution: CodeExecution = Field(
        default=CodeExecution(), description="Generated programs that jobs run with their tests."
    )
    stages: dict[Stage, StagePod] = Field(default={}, description="Pod settings of each stage.")

    def pod(self, stage: Stage) -> StagePod:
        return self.stages.get(stage, StagePod())


class Settings(_Model):
    """All settings of the operator."""

    trainer: TrainerSettings
    namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to watch; empty for all.")
    listen: str = Field(default="0.0.0.0", description="Address of /metrics, /healthz and /readyz.")
    port: int = Field(default=8080, ge=1, le=65535, description="Port of /metrics, /healthz and /readyz.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    progress_via: Literal["PodAddress", "ApiServer"] = Field(
        default="PodAddress", description="Route to /progress of a pod; ApiServer also works from outside the cluster."
    )
    progress_seconds: float = Field(default=15, gt=0, description="Interval in which the progress of a run is polled.")
    resync_seconds: float = Field(default=300, gt=0, description="Interval of the resync.")
    workers: int = Field(default=16, ge=1, description="Maximum number of concurrent reconciles.")


def load(path: Path) -> Settings:
    """Load the settings from a JSON file.

    Raises:
        SettingsError: The file cannot be read, or a value is invalid.
    """
    try:
        return Settings.model_validate_json(path.read_bytes(), by_name=False)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False))
        raise SettingsError(f"{path}: {'; '.join(problems)}") from error
