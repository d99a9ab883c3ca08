"""The tie between a FineTuneJob and its children: they go with it."""

from __future__ import annotations

from typing import Any

from finetune_api.base import API_GROUP, API_VERSION, KIND
from finetune_api.stage import JobIdentity


def owner_reference(job: JobIdentity) -> dict[str, Any]:
    """The owner reference of a child.

    It does not block the owner's deletion: that would need a right to change finalizers, and nothing waits for it.
    """
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
