"""FineTuneJobs as the API server holds them."""

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
ENDED = ("Succeeded", "Rejected", "Failed")


def read(stored: Mapping[str, Any]) -> FineTuneJob:
    """The job. Fields that a newer operator knows are left out: what is known is still worth showing.

    Raises:
        ClusterError: It makes no sense to this program.
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
        _, told = sentence(error.errors(include_url=False)[0])
        name = stored["metadata"]["name"]
        message = f"FineTuneJob {name} is of another version than this program ({told}); see it with -o yaml."
        raise ClusterError(message, code=422) from error


def is_seen(job: FineTuneJob) -> bool:
    """Whether the status speaks of the spec as it is now."""
    return job.status.observed_generation >= job.metadata.generation


def has_ended(job: FineTuneJob) -> bool:
    """Whether nothing more happens unless somebody changes the spec."""
    return is_seen(job) and (job.status.completion_time is not None or refused(job) is not None)


def refused(job: FineTuneJob) -> str | None:
    """Why the operator does not accept the spec; None when it does, or has not looked yet."""
    accepted = condition(job, ConditionType.ACCEPTED)
    return accepted.message if accepted and accepted.status == "False" else None


def condition(job: FineTuneJob, type_: ConditionType) -> Condition | None:
    return next((entry for entry in job.status.conditions if entry.type is type_), None)
