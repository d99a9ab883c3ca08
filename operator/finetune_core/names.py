"""Names and labels of what belongs to a job. A run's identity decides its name, so nothing can be started twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from finetune_api.base import API_GROUP
from finetune_api.stage import Stage
from finetune_core.runs import RunId

FIELD_MANAGER = "finetune-operator"

JOB_LABEL = f"{API_GROUP}/job"
REVISION_LABEL = f"{API_GROUP}/revision"
STAGE_LABEL = f"{API_GROUP}/stage"
ATTEMPT_LABEL = f"{API_GROUP}/attempt"
MANAGED_LABELS = {"app.kubernetes.io/name": "finetune", "app.kubernetes.io/managed-by": FIELD_MANAGER}

SPEC_DIGEST_ANNOTATION = f"{API_GROUP}/spec-digest"
STAGE_ANNOTATION = f"{API_GROUP}/stage-config"
"""On a pod: ``stage.json``."""
STOP_ANNOTATION = f"{API_GROUP}/stop"
"""On a Job that the operator is ending, or has ended."""

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

CONTAINER = "trainer"
"""Name of the container of a stage."""

_LONGEST_NAME = 63
_LONGEST_SUFFIX = len("-r99999-evaluate-9999-1023")
"""Of a pod's host name, which must be a DNS label: revision, stage, attempt and worker."""


def run_name(job: str, run: RunId) -> str:
    """Name of the child Job of a run: ``support-intents-r1-train-1``."""
    return f"{_stem(job, _LONGEST_SUFFIX)}-r{run.revision}-{run.stage}-{run.attempt}"


def service_name(job: str) -> str:
    """Name of the headless Service that the training pods of a job find each other by."""
    return f"{_stem(job, len('-workers'))}-workers"


def labels(job: str, run: RunId) -> dict[str, str]:
    """Labels of a run's Job and pods."""
    return {
        **MANAGED_LABELS,
        JOB_LABEL: job,
        REVISION_LABEL: str(run.revision),
        STAGE_LABEL: str(run.stage),
        ATTEMPT_LABEL: str(run.attempt),
    }


def run_of(found: Mapping[str, Any]) -> tuple[str, RunId] | None:
    """The name of the FineTuneJob and the run that an object's labels name; None when they name none."""
    try:
        run = RunId(_number(found[REVISION_LABEL]), Stage(found[STAGE_LABEL]), _number(found[ATTEMPT_LABEL]))
        return str(found[JOB_LABEL]), run
    except (KeyError, ValueError):
        return None


def index_of(annotations: Mapping[str, Any]) -> int:
    """The index of a pod in its Job; 0 when it says none, as a pod that somebody made by hand."""
    try:
        return _number(annotations[INDEX_ANNOTATION])
    except (KeyError, ValueError):
        return 0


def _number(text: str) -> int:
    """A number as the operator writes it: anybody who may create a pod can write something else there."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not such a number")
    return int(text)


def _stem(job: str, room: int) -> str:
    """``job``, or its beginning and a hash where a name of it would be too long."""
    longest = _LONGEST_NAME - room
    if len(job) <= longest:
        return job
    digest = hashlib.sha256(job.encode()).hexdigest()[:6]
    return f"{job[: longest - 7].rstrip('-')}-{digest}"
