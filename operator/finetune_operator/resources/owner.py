"""The owner reference through which children are garbage-collected with their FineTuneJob."""

from __future__ import annotations

from typing import Any

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.stage import JobIdentity


def owner_reference(job: JobIdentity) -> dict[str, Any]:
    """The owner reference of a child.

    It does not block the deletion of the owner: that would need permission to update finalizers, for no benefit.
    """
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
