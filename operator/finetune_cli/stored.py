"""Parses FineTuneJobs from the API server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from pydantic import ValidationError

from finetune_api.base import API_GROUP, KIND
from finetune_api.job import Condition, ConditionType, FineTuneJob
from finetune_cli.refusals import ClusterError
from finetune_cli.sentences import sentence

RESOURCE = f"{KIND.lower()}.{API_GROUP}"
FINISHED_PHASES = ("Succeeded", "Rejected", "Failed")


def read(stored: Mapping[str, Any]) -> FineTuneJob:
    """Parse a FineTuneJob. Unknown fields, which a newer operator may write, are ignored.

    Raises:
        ClusterError: A known field has an unknown value.
    """
    document = json.loads(json.dumps(stored))
    try:
        return FineTuneJob.model_validate_json(json.dumps(document))
    except ValidationError as error:
        for details in error.errors():
            if details["type"] == "extra_forbidden":
                *parents, name = details["loc"]
                reduce(getitem, parents, document).pop(name, None)
    try:
        return FineTuneJob.model_validate_json(json.dumps(document))
    except ValidationError as error:
        _, problem = sentence(error.errors(include_url=False)[0])
        name = stored["metadata"]["name"]
        message = f"This version of finetune cannot read FineTuneJob {name} ({problem}); print it with -o yaml."
        raise ClusterError(message, code=422) from error


def is_observed(job: FineTuneJob) -> bool:
    """Whether the operator has reconciled the current spec."""
    return job.status.observed_generation >= job.metadata.generation


def has_finished(job: FineTuneJob) -> bool:
    """Whether the job changes only if its spec does."""
    return is_observed(job) and (job.status.completion_time is not None or rejection(job) is not None)


def rejection(job: FineTuneJob) -> str | None:
    """Why the operator does not accept the spec; None if it does, or has not reconciled it yet."""
    accepted = condition(job, ConditionType.ACCEPTED)
    return accepted.message if accepted and accepted.status == "False" else None


def condition(job: FineTuneJob, type_: ConditionType) -> Condition | None:
    return next((entry for entry in job.status.conditions if entry.type is type_), None)
