"""The child Job of a run, and the headless Service of its pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from finetune_api.stage import CodeExecution, JobIdentity, StageConfig
from finetune_core import names
from finetune_core.runs import StageRun
from finetune_operator.resources.owner import owner_reference
from finetune_operator.resources.pod import pod_template
from finetune_operator.resources.sandbox import SOCKET
from finetune_operator.settings import TrainerSettings

_NONE: Mapping[str, str] = MappingProxyType({})


def stage_job(
    run: StageRun, settings: TrainerSettings, avoided_nodes: Sequence[str] = (), job_labels: Mapping[str, str] = _NONE
) -> dict[str, Any]:
    """The Job of a run, with one pod per worker.

    A pod is never replaced alone: the other ranks cannot continue without it, so the gang ends and the next attempt
    starts from a checkpoint. A run on GPUs prefers nodes that are not in ``avoided_nodes``. Of ``job_labels``, those of
    the FineTuneJob, it gets the ones that the settings name.
    """
    copied = {name: job_labels[name] for name in settings.copied_labels if name in job_labels}
    name, workers = names.run_name(run.job.name, run.id), run.world.workers
    gang = workers > 1
    subdomain = names.service_name(run.job.name) if gang else None
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": run.job.namespace,
            "labels": {**copied, **names.labels(run.job.name, run.id)},
            "annotations": {names.SPEC_DIGEST_ANNOTATION: run.job.spec_digest},
            "ownerReferences": [owner_reference(run.job)],
        },
        "spec": {
            "backoffLimit": 0,
            "completionMode": "Indexed",
            "completions": workers,
            "parallelism": workers,
            # A terminating pod still writes its checkpoint, so it is replaced only after it has ended.
            "podReplacementPolicy": "Failed",
            "template": pod_template(
                run,
                _config(run, name, subdomain),
                settings,
                subdomain=subdomain,
                avoided_nodes=avoided_nodes,
                job_labels=copied,
            ),
        },
    }


def workers_service(job: JobIdentity) -> dict[str, Any]:
    """The headless Service that gives the training pods of a job their DNS names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names.service_name(job.name),
            "namespace": job.namespace,
            "labels": {**names.MANAGED_LABELS, names.JOB_LABEL: job.name},
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "clusterIP": "None",
            # Workers connect to each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {names.JOB_LABEL: job.name, names.STAGE_LABEL: "train"},
        },
    }


def _config(run: StageRun, name: str, subdomain: str | None) -> StageConfig:
    """``stage.json``; in a gang, with the DNS name of worker 0."""
    local: dict[str, Any] = {"main_address": f"{name}-0.{subdomain}"} if subdomain else {}
    return run.config(code_execution=CodeExecution(socket=SOCKET) if run.runs_code else None, **local)
