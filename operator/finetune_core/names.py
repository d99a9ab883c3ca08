"""Names, labels and annotations of child objects. The identity of a run determines its name: no run starts twice."""

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
"""On a child Job that the operator stops, or has stopped."""

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

CONTAINER = "trainer"
"""Name of the container of a stage."""

SANDBOX = "sandbox"
"""Name of the container that runs generated programs beside a stage."""

_MAX_NAME_LENGTH = 63
_MAX_SUFFIX_LENGTH = len("-r99999-evaluate-9999-1023")
"""Of a pod's host name, which must be a DNS label: revision, stage, attempt and worker index."""


def run_name(job: str, run: RunId) -> str:
    """Name of the child Job of a run: ``support-intents-r1-train-1``."""
    return f"{_stem(job, _MAX_SUFFIX_LENGTH)}-r{run.revision}-{run.stage}-{run.attempt}"


def service_name(job: str) -> str:
    """Name of the headless Service through which the training pods of a job resolve each other.

    Before Kubernetes 1.36 the name of a Service must begin with a letter; that of a job may begin with a digit.
    """
    # With the hash, no other job has this Service by chance.
    prefix = "" if job[0].isalpha() else f"w{_hash(job)}-"
    return f"{prefix}{_stem(job, len(prefix) + len('-workers'))}-workers"


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
    """The FineTuneJob name and the run in the labels of an object; None if the labels are missing or invalid."""
    try:
        run = RunId(_number(found[REVISION_LABEL]), Stage(found[STAGE_LABEL]), _number(found[ATTEMPT_LABEL]))
        return str(found[JOB_LABEL]), run
    except (KeyError, ValueError):
        return None


def index_of(annotations: Mapping[str, Any]) -> int:
    """The completion index of a pod; 0 if its annotation is missing or invalid, as in a pod created by hand."""
    try:
        return _number(annotations[INDEX_ANNOTATION])
    except (KeyError, ValueError):
        return 0


def _number(text: str) -> int:
    """A number as the operator writes it. Labels are not trusted: anyone who may create pods can set them."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a number of at most nine digits")
    return int(text)


def _stem(job: str, suffix_length: int) -> str:
    """``job``, or its beginning and a hash if a name with it would be too long."""
    longest = _MAX_NAME_LENGTH - suffix_length
    if len(job) <= longest:
        return job
    return f"{job[: longest - 7].rstrip('-')}-{_hash(job)}"


def _hash(job: str) -> str:
    return hashlib.sha256(job.encode()).hexdigest()[:6]
